"""`python -m tests.cluster up|images|down|status|build`: a cluster for a person, and what one needs in it."""

from __future__ import annotations

import argparse
import sys

from tests.cluster import detached
from tests.cluster.binaries import PROGRAMS, Binaries
from tests.cluster.errors import RigError, Unavailable
from tests.cluster.project_images import CHART, REGISTRY, ROOT, chart_version


def main() -> int:
    """Runs the command line; returns the exit status."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except (RigError, Unavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, run, text in (
        ("up", _up, "start a cluster and print how to use it (the last line sets KUBECONFIG)"),
        ("serve", _serve, "run a cluster in the foreground"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--node",
            action=argparse.BooleanOptionalAction,
            help="with or without a node that runs pods (needs root); default: where this computer can",
        )
        command.set_defaults(run=run)
    images = commands.add_parser("images", help="build the project's images and bring them into the cluster that is up")
    images.set_defaults(run=_images)
    commands.add_parser("down", help="end the cluster that `up` started").set_defaults(run=_down)
    commands.add_parser("status", help="exit 0 when a cluster is up").set_defaults(run=_status)
    commands.add_parser("build", help="build all programs into the cache").set_defaults(run=_build)
    return parser


def _up(arguments: argparse.Namespace) -> int:
    _show(detached.up(node=arguments.node))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    detached.serve(node=arguments.node)
    return 0


def _images(_: argparse.Namespace) -> int:
    record = detached.Record.read()
    if record is None:
        raise RigError("no cluster is up; make cluster-up starts one")
    tags = detached.bring_images(record, tag=chart_version())
    print(f"# on the node: {', '.join(tags)}")
    print(f"helm install tandem {CHART.relative_to(ROOT)} -n tandem --create-namespace --set image.registry={REGISTRY}")
    return 0


def _down(_: argparse.Namespace) -> int:
    print("the cluster has ended" if detached.down() else "no cluster is up", file=sys.stderr)
    return 0


def _status(_: argparse.Namespace) -> int:
    record = detached.Record.read()
    if record is None:
        print("no cluster is up", file=sys.stderr)
        return 1
    _show(record)
    return 0


def _build(_: argparse.Namespace) -> int:
    binaries = Binaries.from_environment()
    for program in PROGRAMS:
        print(binaries.get(program.name))
    return 0


def _show(record: detached.Record) -> None:
    pods = "runs pods" if record.has_node else "has no node, so pods stay Pending"
    print(f"# a cluster is up (process {record.server.pid}); it {pods}. kubectl and helm are in this path:")
    print(f"export PATH={record.programs}:$PATH")
    print(f"export KUBECONFIG={record.kubeconfig}")


if __name__ == "__main__":
    sys.exit(main())
