"""Proves that no code compiled for one ISA can run in the place of other code.

Usage::

    check_symbols.py FILE...
    check_symbols.py --self-test

An ISA file (``isa_avx2.cpp`` and so on) is compiled to instructions that not every machine has.
If it emits a function that other files emit as well (``std::vector<float>::push_back``, an inline
function of a shared header), the linker keeps one of them for all: perhaps the one that crashes
on an older machine. Each FILE is either of:

object file ``*_<isa>.cpp.o``
    Every function that it defines for others to link to must carry ``fusedrnn::<isa>::`` in its
    name.
linked file (shared library or program)
    Functions outside ``fusedrnn::avx2::`` and ``fusedrnn::avx512::`` must have no AVX instruction,
    those of AVX2 no AVX-512 one. Needs a file that is not stripped: a wheel's is, so give the file
    from a plain CMake build.

Needs ``objdump`` (binutils); for x86-64 only. The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Functions that an ISA file may share with others, and why. Regular expressions for whole names.
ALLOWED: dict[str, str] = {
    r"__clang_call_terminate": "clang's call of std::terminate: no arithmetic, no loops",
}

OBJECT_NAME = re.compile(r"_(?P<isa>scalar|avx2|avx512)\.cpp\.o(bj)?$")
# address, seven columns of flags, section, size, perhaps a visibility, name
SYMBOL = re.compile(
    r"[0-9a-f]+ (?P<flags>.{7}) (?P<section>\S+)\t[0-9a-f]+ +"
    r"(\.(hidden|internal|protected) )?(?P<name>.+)"
)
FUNCTION = re.compile(r"[0-9a-f]+ <(?P<name>.+)>:")
# address, bytes of the machine code, text. A vector instruction of AVX or AVX2 begins with byte c4
# or c5 (the VEX prefix), one of AVX-512 with 62 (EVEX), after prefixes for memory operands.
INSTRUCTION = re.compile(
    r" *[0-9a-f]+:\t((26|2e|36|3e|64|65|67) )*(?P<byte>[0-9a-f]{2}) [^\t]*\t(?P<text>.+)"
)
VEX, EVEX = {"c4", "c5"}, {"62"}


def objdump(*arguments: str | Path) -> Iterator[str]:
    """Yield the lines that ``objdump`` prints, with names demangled."""
    command = ["objdump", "--demangle", *map(str, arguments)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    yield from result.stdout.splitlines()


def is_object(path: Path) -> bool:
    """Tell an object file from a linked one, by the type in its ELF header."""
    header = path.read_bytes()[:20]
    if header[:4] != b"\x7fELF" or header[18:20] != b"\x3e\x00":
        raise SystemExit(f"{path}: expected an ELF file for x86-64")
    return header[16] == 1


def shared_functions(path: Path) -> Iterator[str]:
    """Yield the functions that an object file defines for others to link to."""
    for line in objdump("--syms", path):
        symbol = SYMBOL.fullmatch(line)
        if symbol is None or symbol["section"] == "*UND*":
            continue
        flags = symbol["flags"]
        is_shared = flags[0] in "gu!" or flags[1] == "w"
        is_code = flags[6] == "F" or flags[4] == "i" or symbol["section"].startswith(".text")
        if is_shared and is_code:
            yield symbol["name"]


def check_object(path: Path) -> list[str]:
    """List what is wrong with an ISA's object file."""
    match = OBJECT_NAME.search(path.name)
    if match is None:
        raise SystemExit(f"{path}: expected a name like isa_avx2.cpp.o")
    own = f"fusedrnn::{match['isa']}::"
    names = list(shared_functions(path))
    if not any(own in name for name in names):
        return [f"has no function of {own}"]
    return [
        f"shares with others: {name}"
        for name in names
        if own not in name and not any(re.fullmatch(pattern, name) for pattern in ALLOWED)
    ]


def forbidden(function: str) -> set[str]:
    """Return the first bytes of the instructions that a function must not have."""
    if "fusedrnn::avx512::" in function:
        return set()
    return EVEX if "fusedrnn::avx2::" in function else VEX | EVEX


def check_linked(path: Path) -> list[str]:
    """List what is wrong with a shared library or program."""
    wrong: dict[str, str] = {}  # by function, its first instruction that is out of place
    function, bad, has_isa = "", VEX | EVEX, False
    for line in objdump("--disassemble", path):
        if header := FUNCTION.fullmatch(line):
            function = header["name"]
            bad = forbidden(function)
            has_isa = has_isa or "fusedrnn::avx2::" in function
        elif bad and (instruction := INSTRUCTION.fullmatch(line)) and instruction["byte"] in bad:
            wrong.setdefault(function, " ".join(instruction["text"].split()))
    if not has_isa:
        return ["has no function of fusedrnn::avx2::; is it stripped?"]
    return [f"has `{text}` in: {name}" for name, text in wrong.items()]


def check(paths: list[Path]) -> int:
    """Check files, print what is wrong with them, and return how many mistakes that is."""
    count = 0
    for path in paths:
        mistakes = check_object(path) if is_object(path) else check_linked(path)
        count += len(mistakes)
        print(f"{path}: {'WRONG' if mistakes else 'ok'}")
        for mistake in mistakes:
            print(f"  {mistake}")
    return count


GOOD = """
namespace fusedrnn::avx2 {
template <class V> __attribute__((noinline)) V sum(const V* p) { return p[0] + p[1]; }
typedef float Vec __attribute__((vector_size(32)));
struct Own { Vec v; Own operator+(Own o) const { return {v + o.v}; } };
void kernel(const float* p, float* out) { *(Own*)out = sum((const Own*)p); }
}
"""
# An inline function of a shared header, and a template of the standard library.
INLINE_LEAK = GOOD + "inline __attribute__((noinline)) float twice(float x) { return x + x; }\n"
INLINE_LEAK += "namespace fusedrnn::avx2 { float leaks(float x) { return twice(x); } }\n"
TEMPLATE_LEAK = "#include <vector>\n" + GOOD
TEMPLATE_LEAK += "namespace fusedrnn::avx2 { void leaks(std::vector<float>& v) { v.resize(9); } }\n"
PLAIN = "float plain(float x) { return x * 3; }\n"


def self_test() -> int:
    """Compile examples with and without a leak, and count those that are judged wrongly."""
    compiler, mistakes = os.environ.get("CXX", "g++"), 0
    wide = GOOD.replace("vector_size(32)", "vector_size(64)")

    with tempfile.TemporaryDirectory() as folder:

        def compiled(name: str, source: str, *flags: str) -> Path:
            path = Path(folder, name)
            command = [compiler, "-std=c++20", "-O2", "-fPIC", *flags, "-c", "-o", str(path)]
            subprocess.run([*command, "-x", "c++", "-"], input=source, check=True, text=True)
            return path

        def linked(*objects: Path, flags: tuple[str, ...] = ()) -> Path:
            path = Path(folder, "library.so")
            command = [compiler, "-shared", *flags, "-o", str(path), *map(str, objects)]
            subprocess.run(command, check=True)
            return path

        def expect(good: bool, what: str, path: Path) -> None:
            nonlocal mistakes
            print(f"{what}: ", end="")
            if (check([path]) == 0) != good:
                mistakes += 1
                print("  SELF-TEST FAILED")

        isa = "isa_avx2.cpp.o"
        expect(False, "an inline function", compiled(isa, INLINE_LEAK, "-mavx2"))
        expect(False, "a template of std", compiled(isa, TEMPLATE_LEAK, "-mavx2"))
        expect(False, "another ISA's functions", compiled("isa_avx512.cpp.o", GOOD, "-mavx2"))
        clean, plain = compiled(isa, GOOD, "-mavx2"), compiled("plain.o", PLAIN)
        expect(True, "a clean object", clean)
        expect(True, "a clean library", linked(clean, plain))
        expect(
            False,
            "a stripped library",
            linked(compiled("hidden.o", GOOD, "-fvisibility=hidden"), plain, flags=("-s",)),
        )
        expect(False, "AVX outside", linked(clean, compiled("avx.o", PLAIN, "-mavx2")))
        avx512 = compiled("wide.o", wide, "-mavx512f")
        expect(False, "AVX-512 in AVX2", linked(avx512, plain))
    print("self-test: " + ("FAILED" if mistakes else "ok, what is WRONG above is wrong on purpose"))
    return mistakes


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Scan for code of an ISA that others could run.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--self-test", action="store_true", help="prove that leaks are found")
    arguments = parser.parse_args()
    if arguments.self_test == bool(arguments.files):
        parser.error("give files, or --self-test")
    return min(1, self_test() if arguments.self_test else check(arguments.files))


if __name__ == "__main__":
    sys.exit(main())
