"""``python -m ad_assets_runtime``: verify a bundle, predict with it, serve champions, watch a folder."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ad_assets_runtime.bundle import MANIFEST, Bundle, BundleError, open_bundle
from ad_assets_runtime.champions import Champions, Follower, OneBundle, ServedChampions
from ad_assets_runtime.engines import ENGINES
from ad_assets_runtime.images import IMAGE_SUFFIXES, ImageError
from ad_assets_runtime.results import result_of
from ad_assets_runtime.watched_folder import WatchedFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 a bundle or an image was refused, 2 the call is invalid."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (BundleError, OSError) as error:
        print(f"ad-assets-runtime: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"ad-assets-runtime: {error}: pip install 'ad-assets-runtime[server]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    whole = argparse.ArgumentParser("ad-assets-runtime", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    add_engine_options(shared)
    verify = commands.add_parser(
        "verify", parents=[shared], help="check the files of a bundle and run its self-test here"
    )
    verify.add_argument("bundle", help="folder or .zip")
    verify.set_defaults(run=_verify)
    predict = commands.add_parser("predict", parents=[shared], help="score images; one line of JSON each")
    predict.add_argument("bundle", help="folder or .zip")
    predict.add_argument("images", nargs="+", help="files or folders")
    predict.add_argument("--heat-maps", metavar="DIR", help="folder for a PNG of each image with its heat map")
    predict.set_defaults(run=_predict)
    serve = commands.add_parser("serve", parents=[shared], help="answer requests for the champions of a line")
    add_server_options(serve)
    serve.add_argument("source", help="folder or s3:// prefix that has champion_bundles, or one bundle")
    serve.set_defaults(run=_serve)
    watch = commands.add_parser("watch", parents=[shared], help="score what lands in a folder, each image once")
    watch.add_argument("source", help="as for serve")
    watch.add_argument("dataset")
    watch.add_argument("category")
    watch.add_argument("images", type=Path, help="folder in which images land")
    watch.add_argument("results", type=Path, help="folder for results, pictures and the images that are done")
    watch.add_argument("--lane", help="detector, where several are promoted")
    watch.add_argument("--settle", type=float, default=1.0, metavar="SECONDS", help="unchanged for so long: complete")
    watch.add_argument("--patience", type=float, default=60.0, metavar="SECONDS", help="broken after this")
    _add_home(watch)
    watch.set_defaults(run=_watch)
    return whole


def add_engine_options(command: argparse.ArgumentParser) -> None:
    """The options of what runs graphs."""
    command.add_argument("--engine", choices=ENGINES, default="onnxruntime", help="what runs the graph")
    command.add_argument("--threads", type=int, help="of one image; default: as many as the engine takes")


def add_server_options(serve: argparse.ArgumentParser) -> None:
    """The options of a server, but for what it serves."""
    _add_home(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need a token")
    serve.add_argument("--port", type=int, default=8350)
    serve.add_argument("--name", action="append", default=[], help="a further name of this host that requests may use")
    serve.add_argument("--workers", type=int, default=1, help="images that are scored at once")
    serve.add_argument("--waiting", type=int, default=32, help="requests under way or waiting; beyond: 429")
    serve.add_argument("--most-mb", type=float, default=64.0, help="of one request; beyond: 413")
    serve.add_argument("--kept-gb", type=float, default=2.0, help="of recent images, for the page and for feedback")
    serve.add_argument("--poll", type=float, default=2.0, metavar="SECONDS", help="between two looks at champions")


def _add_home(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--home", type=Path, default=Path("line-home"), help="folder of its own: bundles, inspections, recent images"
    )
    command.add_argument(
        "--outbox", default="", help="folder or s3:// prefix for inspections and feedback; default: in --home"
    )


def _source(options: argparse.Namespace) -> ServedChampions:
    engine, threads = options.engine, options.threads
    path = Path(options.source)
    if "://" not in options.source and (path.is_file() or (path / MANIFEST).is_file()):
        return OneBundle(open_bundle(path, engine=engine, threads=threads))
    return Champions(options.source, options.home / "cache", engine=engine, threads=threads)


def _serve(options: argparse.Namespace) -> int:
    return run_server(options, _source(options))


def run_server(options: argparse.Namespace, champions: ServedChampions) -> int:
    """Serve champions as `add_server_options` says."""
    from ad_assets_runtime.server.run import serve
    from ad_assets_runtime.server.settings import ServerError, ServerSettings, token_from_environment

    settings = ServerSettings(
        home=options.home,
        host=options.host,
        port=options.port,
        token=token_from_environment(),
        names=tuple(options.name),
        workers=options.workers,
        most_waiting=options.waiting,
        most_bytes=int(options.most_mb * 1e6),
        kept_gb=options.kept_gb,
        poll_seconds=options.poll,
        outbox=options.outbox,
    )
    try:
        return serve(settings, champions)
    except ServerError as error:
        print(f"ad-assets-runtime: {error}", file=sys.stderr)
        return 2


def _watch(options: argparse.Namespace) -> int:
    from ad_assets_runtime.records import Records

    stopped = threading.Event()
    # Not by an exception: in the middle of an image it would lose what is said of it.
    for asked in (signal.SIGTERM, signal.SIGINT):
        signal.signal(asked, lambda *_: stopped.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    champions, records = _source(options), Records(options.home, outbox=options.outbox, kept_gb=0)

    def champion() -> Bundle:
        return champions.of(options.dataset, options.category, options.lane).bundle

    champions.poll()
    follower = Follower(champions)
    follower.start()
    records.start()
    folder = WatchedFolder(
        options.images,
        options.results,
        champion,
        records.add,
        settle_seconds=options.settle,
        patience_seconds=options.patience,
    )
    try:
        while not stopped.wait(min(0.5, options.settle)):
            folder.poll(stopped.is_set)
        return 130
    finally:
        follower.stop()
        records.stop()


def _open(options: argparse.Namespace) -> Bundle:
    return open_bundle(options.bundle, engine=options.engine, threads=options.threads)


def _verify(options: argparse.Namespace) -> int:
    bundle = _open(options)
    engine, tests = bundle.members[0].engine, len(bundle.manifest["selftest"])
    print(f"{'/'.join(bundle.place)}: whole, and {tests} images score as where it was exported")
    print(f"  state {bundle.champion['state']}, bundle {bundle.identity[:16]}, {engine.name} {engine.version}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    bundle, status = _open(options), 0
    for path in _files(options.images):
        try:
            image = bundle.inspect(path.read_bytes(), str(path), {})
        except (ImageError, OSError) as error:
            print(f"FAILED {error}", file=sys.stderr)
            status = 1
            continue
        print(json.dumps({"image": str(path), **result_of(image)}), flush=True)
        if options.heat_maps:
            from ad_assets_runtime.pictures import heat_map_png

            target = Path(options.heat_maps) / f"{path.stem}-{image.image_id[:8]}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(heat_map_png(image.rgb, image.prediction, bundle.colours))
    return status


def _files(names: Sequence[str]) -> Iterator[Path]:
    for name in map(Path, names):
        if name.is_dir():
            yield from sorted(each for each in name.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES)
        else:
            yield name
