from keras_pde import hub
from keras_pde.cli._common import command, length, positive, say, share
from keras_pde.records import to_json


def add(commands, debug, help):
    parser = command(
        commands,
        debug,
        "list",
        _list,
        help,
        "Lists the published models that fit, one line a measurement. Robust accuracies are upper "
        "bounds, by the attacks that `keras-pde show NAME` names.",
    )
    parser.add_argument("--dataset", metavar="NAME", help="trained on this data set")
    parser.add_argument("--norm", choices=("l1", "l2", "linf"), help="measured in this norm")
    parser.add_argument("--epsilon", type=length, metavar="E", help="measured at it, e.g. 8/255")
    parser.add_argument(
        "--min-robust", type=share, metavar="SHARE", help="at least so robust there, e.g. 0.5"
    )
    parser.add_argument("--max-params", type=positive, metavar="N", help="at most N parameters")
    parser.add_argument("--architecture", metavar="NAME")
    parser.add_argument("--data-tier", metavar="TIER", help="extra data: none, synthetic or real")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def _list(arguments):
    wanted = ("dataset", "norm", "epsilon", "min_robust", "max_params", "architecture", "data_tier")
    listed = hub.list_models(**{name: getattr(arguments, name) for name in wanted})
    if arguments.json:
        say(to_json([model.to_dict() for model in listed], "list of models"))
        return
    say(str(listed))
