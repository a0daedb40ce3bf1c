"""The `mmxai` command: one verb a method, options generated from the verb's config dataclass.

A verb is a module of this package with a dataclass `Config` and a function `run(config) -> int` (the
exit status); or with `VERBS`, its parts, each the module `<verb>_<part>`. Only the module of the verb that
was typed is imported, so `--help` is quick.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from mmxai.errors import MmxaiError

VERBS = {
    "demo": "harvest a trained CLIP over generated pictures and write a page about it",
    "check": "verify every site of a model against recomputation, in a minute",
    "harvest": "stream a model's activations over a data set into a Zarr store",
    "shapes": "write pictures of the shapes world, their captions and labels, to a plain folder",
    "sae": "sparse autoencoders: train, eval, encode, show, convert",
    "decompose": "representations as sums of directions: dictionary, path",
    "neurons": "single units: what drives them, which labels they tell, what is lost without them",
    "dissect": "which concepts units stand for, by the pixels in which they are active",
    "describe": "words for units, by a judge that compares pictures with a word list",
    "trace": "causal tracing: which states carry an answer, by block, token and patch, as a page of maps",
    "probe": "linear probes of every site: what can be read off it, beside control tasks",
    "lens": "what every block of a model would say if it were the last: tokens, or CLIP's texts",
    "tune": "a tuned lens: affine maps from each state to the last, trained from a store",
    "info": "what a store holds; without a store, what this installation can run",
    "verify": "check every byte of a store against its checksums",
    "compact": "fold the records of many parts into one file, so that opening stays quick",
    "bench": "measure mmxai on this machine, beside floors and rivals",
}

_RESUME = ("harvest", "demo", "sae train", "sae eval", "sae encode", "decompose path", "dissect", "tune")

OK, PROBLEM, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status (0 done, 1 problem, 2 usage, 130 interrupted)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return OK if args else USAGE
    if args[0] in ("-V", "--version"):
        from mmxai import __version__

        print(f"mmxai {__version__}")
        return OK
    verb = args[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"; did you mean 'mmxai {near[0]}'?" if near else ""
        print(f"mmxai: no verb {verb!r}{hint}\n\n{_help()}", file=sys.stderr)
        return USAGE
    return _run(verb, args[1:])


def _run(verb: str, args: list[str]) -> int:
    try:
        import tyro

        module = import_module(f"mmxai.cli.{verb}")
        if (parts := getattr(module, "VERBS", None)) is not None:
            if not args or args[0] not in parts:
                asked = bool(args) and args[0] in ("-h", "--help")
                print(_parts_help(verb, parts), file=sys.stdout if asked else sys.stderr)
                return OK if asked else USAGE
            module = import_module(f"mmxai.cli.{verb}_{args[0]}")
            verb, args = f"{verb} {args[0]}", args[1:]
        config = tyro.cli(
            module.Config,
            args=args,
            prog=f"mmxai {verb}",
            description=module.__doc__,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        return int(module.run(config))
    except MmxaiError as error:
        if os.environ.get("MMXAI_TRACEBACK"):
            raise
        print(f"mmxai {verb}: {type(error).__name__}: {error}", file=sys.stderr)
        return PROBLEM
    except KeyboardInterrupt:
        hint = "; what was committed is safe, the same command goes on" if verb in _RESUME else ""
        print(f"mmxai {verb}: interrupted{hint}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # `mmxai info ... | head`: the reader has gone; point stdout away so that its flush at exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        if os.environ.get("MMXAI_TRACEBACK"):
            raise
        print(f"mmxai {verb}: {type(error).__name__}: {error}", file=sys.stderr)
        return PROBLEM


def _parts_help(verb: str, parts: Mapping[str, str]) -> str:
    width = max(map(len, parts))
    lines = "\n".join(f"  {part:<{width}}  {what}" for part, what in parts.items())
    return f"usage: mmxai {verb} PART [options]      (mmxai {verb} PART --help explains a part)\n\n{lines}"


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    return (
        "usage: mmxai VERB [options]      (mmxai VERB --help explains a verb)\n\n"
        "Interpretability of multimodal models: harvest activations once, interpret everything.\n\n"
        f"verbs:\n{verbs}\n\n"
        "first steps:\n"
        "  mmxai demo\n"
        "  mmxai harvest MODEL_FOLDER PICTURES_FOLDER --sites 'vision.*.resid_post' --store acts.zarr\n"
        "  mmxai info acts.zarr\n\n"
        "MMXAI_TRACEBACK=1 shows the traceback of an error."
    )
