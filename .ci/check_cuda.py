"""Checks what the compiler made of the CUDA kernels, without a GPU.

Usage::

    check_cuda.py [--sass] FILE...
    check_cuda.py --self-test

Each FILE is either of:

log
    What ``nvcc -Xptxas -v`` printed. No function may spill registers or have a stack frame (an
    array that did not become registers), and none may take more registers or static shared memory
    than the launch plans count on (``csrc/cuda/plan.h``).
binary with GPU code (cubin, object file, library)
    The same, from ``cuobjdump``. With ``--sass`` also the instructions: that products in half types
    run on the tensor cores, that nothing lies in local memory, and so on (``RULES``).

A kernel that no rule names is an error, so a new kernel needs a line here. Binaries need
``cuobjdump`` and ``nvdisasm``: on the PATH, or ``pip install nvidia-cuda-cuobjdump
nvidia-cuda-nvdisasm``. Names are demangled by ``c++filt`` (binutils). The exit status is 1 if
anything is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Rule:
    """What a kernel may take, and which instructions it must or must not have.

    Instructions are regular expressions for the beginning of one, with the first architecture (80
    is compute capability 8.0) in which the rule holds.
    """

    kernel: str  # a regular expression, found in the demangled name
    registers: int
    shared: int = 0  # bytes of static shared memory
    must: tuple[tuple[str, int], ...] = ()
    must_not: tuple[tuple[str, int], ...] = ()


# Registers: by the launch bounds (csrc/cuda/layer.h, product.h), 65536 by threads and blocks of a
# multiprocessor, in steps of 8, at most 255. Recurrent kernels end with their row_tiles.
HALF = r"(__half|__nv_bfloat16)"
TENSOR_CORES = (r"HMMA\.", 75)
CLUSTER = ((r"UCGABAR_ARV", 90), (r"UCGABAR_WAIT", 90))
ASYNC_COPY = (r"LDGSTS\.", 80)

# The first rule that matches is the kernel's. HMMA in float32 would be TF32.
RULES = (
    Rule(rf"::recurrent_\w+<.*{HALF}, 1>", 128, must=(TENSOR_CORES, *CLUSTER)),
    Rule(rf"::recurrent_\w+<.*{HALF}, 2>", 168, must=(TENSOR_CORES, *CLUSTER)),
    Rule(rf"::recurrent_\w+<.*{HALF}, 4>", 255, must=(TENSOR_CORES, *CLUSTER)),
    Rule(r"::recurrent_\w+<.*float, 1>", 128, must=CLUSTER, must_not=(TENSOR_CORES,)),
    Rule(r"::recurrent_\w+<.*float, 2>", 168, must=CLUSTER, must_not=(TENSOR_CORES,)),
    Rule(r"::recurrent_\w+<.*float, 4>", 255, must=CLUSTER, must_not=(TENSOR_CORES,)),
    Rule(rf"::product_kernel<.*{HALF}", 168, 48 * 1024, must=(TENSOR_CORES, ASYNC_COPY)),
    Rule(r"::product_kernel<.*float", 168, 48 * 1024, (ASYNC_COPY,), (TENSOR_CORES,)),
    Rule(r"::add_parts_kernel<", 128),
    Rule(r"::pointwise_\w+<", 255),
    Rule(r"::(arrange_rows|arrange_states|previous_outputs|drop_rows|fill)<", 255),
    Rule(r"::store_indices\(", 255),
)

# In every kernel: no loads or stores of local memory.
LOCAL_MEMORY = r"(LDL|STL)\b"

# What cuobjdump counts as shared memory although it is the system's, where there are clusters. (It
# does not say the architecture of a cubin alone: 0.)
SYSTEM_SHARED = 1024


@dataclass
class Function:
    """What one function takes, as compiled for one architecture."""

    name: str  # mangled
    architecture: int = 0
    is_kernel: bool = True
    registers: int = 0
    shared: int = 0
    stack: int = 0
    local: int = 0
    spills: int = 0
    instructions: set[str] = field(default_factory=set)  # without operands


LOG_ENTRY = re.compile(r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<sm>\d+)[a-z]?'")
LOG_PROPERTIES = re.compile(r"Function properties for (?P<name>\S+)")
LOG_STACK = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads"
)
LOG_USED = re.compile(r"Used (?P<registers>\d+) registers")
LOG_SHARED = re.compile(r"(?P<shared>\d+) bytes smem")


def read_log(lines: Iterable[str]) -> list[Function]:
    """Read the functions from what ``nvcc -Xptxas -v`` printed."""
    found: list[Function] = []
    entry = function = Function("")
    for line in lines:
        if match := LOG_ENTRY.search(line):
            entry = function = Function(match["name"], int(match["sm"]))
            found.append(entry)
        elif match := LOG_PROPERTIES.search(line):
            function = entry
            if match["name"] != entry.name:  # one that the kernel calls
                function = Function(match["name"], entry.architecture, is_kernel=False)
                found.append(function)
        elif match := LOG_STACK.search(line):
            function.stack = int(match["stack"])
            function.spills = int(match["stores"]) + int(match["loads"])
        elif match := LOG_USED.search(line):
            entry.registers = int(match["registers"])
            if match := LOG_SHARED.search(line):
                entry.shared = int(match["shared"])
    return found


RESOURCE_ARCHITECTURE = re.compile(r"arch = sm_(?P<sm>\d+)")
RESOURCE_FUNCTION = re.compile(r"^ *Function (?P<name>\S+):$")
RESOURCE_USAGE = re.compile(
    r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)"
)


def read_resources(lines: Iterable[str]) -> list[Function]:
    """Read the functions from what ``cuobjdump --dump-resource-usage`` printed."""
    found: list[Function] = []
    architecture, name = 0, ""
    for line in lines:
        if match := RESOURCE_ARCHITECTURE.search(line):
            architecture = int(match["sm"])
        elif match := RESOURCE_FUNCTION.match(line):
            name = match["name"]
        elif match := RESOURCE_USAGE.search(line):
            function = Function(name, architecture)
            function.registers, function.stack = int(match["registers"]), int(match["stack"])
            system = SYSTEM_SHARED if architecture == 0 or architecture >= 90 else 0
            function.shared = max(0, int(match["shared"]) - system)
            function.local = int(match["local"])
            found.append(function)
    return found


SASS_ARCHITECTURE = re.compile(r"^\s*code for sm_(?P<sm>\d+)")
SASS_FUNCTION = re.compile(r"^\s*Function : (?P<name>\S+)")
# address, perhaps a predicate, the instruction
SASS_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?(?P<text>[A-Z][\w.]*)")


def read_sass(lines: Iterable[str]) -> list[Function]:
    """Read the functions and their instructions from what ``cuobjdump -sass`` printed."""
    found: list[Function] = []
    architecture = 0
    for line in lines:
        if match := SASS_ARCHITECTURE.match(line):
            architecture = int(match["sm"])
        elif match := SASS_FUNCTION.match(line):
            found.append(Function(match["name"], architecture))
        elif found and (match := SASS_INSTRUCTION.match(line)):
            found[-1].instructions.add(match["text"])
    return found


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Return the names as they stand in C++, by the mangled ones."""
    names = list(dict.fromkeys(names))
    result = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    )
    return dict(zip(names, result.stdout.splitlines(), strict=True))


def rule_of(name: str) -> Rule | None:
    """Return the rule of a kernel."""
    return next((rule for rule in RULES if re.search(rule.kernel, name)), None)


def mistakes_of(function: Function, name: str) -> Iterator[str]:
    """Yield what is wrong with one function, whose demangled name is given."""
    for value, what in (
        (function.spills, "bytes spilled"),
        (function.stack, "bytes of stack frame"),
        (function.local, "bytes of local memory"),
    ):
        if value > 0:
            yield f"{value} {what}"
    if not function.is_kernel:
        return
    rule = rule_of(name)
    if rule is None:
        yield "no rule for this kernel (RULES in check_cuda.py)"
        return
    if function.registers > rule.registers:
        yield f"{function.registers} registers, expected at most {rule.registers}"
    if function.shared > rule.shared:
        yield f"{function.shared} bytes of static shared memory, expected at most {rule.shared}"


def mistakes_of_sass(function: Function, name: str) -> Iterator[str]:
    """Yield what is wrong with one function's instructions."""
    rule = rule_of(name)
    if rule is None:
        return  # the resources' check says so

    def first(pattern: str) -> str:
        return next((text for text in function.instructions if re.match(pattern, text)), "")

    if text := first(LOCAL_MEMORY):
        yield f"has {text}: local memory"
    for pattern, since in rule.must:
        if function.architecture >= since and not first(pattern):
            yield f"has no {pattern}"
    for pattern, since in rule.must_not:
        if function.architecture >= since and (text := first(pattern)):
            yield f"has {text}"


def check(functions: list[Function], sass: list[Function]) -> list[str]:
    """List what is wrong with functions, and with the instructions of functions."""
    if not any(function.is_kernel for function in functions):
        return ["has no kernel"]
    names = demangled(function.name for function in [*functions, *sass])
    found = [
        f"sm_{function.architecture or '?'} {names[function.name]}: {mistake}"
        for part, judge in ((functions, mistakes_of), (sass, mistakes_of_sass))
        for function in part
        for mistake in judge(function, names[function.name])
    ]
    return list(dict.fromkeys(found))


def tool_environment() -> dict[str, str]:
    """Return an environment whose PATH has the tools' folder of the PyPI packages at its end."""
    folders = [os.environ.get("PATH", "")]
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folders += map(str, Path(location).glob("*/bin"))
    return {**os.environ, "PATH": os.pathsep.join(folders)}


def cuobjdump(*arguments: str | Path) -> list[str]:
    """Return the lines that ``cuobjdump`` prints."""
    environment = tool_environment()
    tool = shutil.which("cuobjdump", path=environment["PATH"])
    if tool is None:
        raise SystemExit("cuobjdump not found: pip install nvidia-cuda-cuobjdump")
    command = [tool, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout.splitlines()


def check_file(path: Path, with_sass: bool) -> list[str]:
    """List what is wrong with a log or a binary."""
    if path.read_bytes()[:4] != b"\x7fELF":
        return check(read_log(path.read_text().splitlines()), [])
    sass = read_sass(cuobjdump("-sass", path)) if with_sass else []
    functions = read_resources(cuobjdump("--dump-resource-usage", path))
    return check(functions, sass)


def check_files(paths: list[Path], with_sass: bool) -> int:
    """Check files, print what is wrong with them, and return how many mistakes that is."""
    count = 0
    for path in paths:
        mistakes = check_file(path, with_sass)
        count += len(mistakes)
        print(f"{path}: {'WRONG' if mistakes else 'ok'}")
        for mistake in mistakes:
            print(f"  {mistake}")
    return count


# ---- The self-test: what the tools print, with and without mistakes. -----------------------------

KERNEL = "_ZN8fusedrnn4cuda17recurrent_forwardINS_4LstmE6__halfLi1EEEvNS0_16RecurrentForwardIT0_EE"
KERNEL_FLOAT = KERNEL.replace("6__half", "f")
KERNEL_4 = KERNEL.replace("Li1", "Li4")
LOG = f"""
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{KERNEL}' for 'sm_90'
ptxas info    : Function properties for {KERNEL}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers
"""
CALLED = """
ptxas info    : Function properties for slow_path
    40 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""
RESOURCES = f"""
Fatbin elf code:
================
arch = sm_90

Resource usage:
 Common:
  GLOBAL:0
 Function {KERNEL}:
  REG:128 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:548 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
SASS = f"""
\tcode for sm_90
\t\tFunction : {KERNEL}
        /*0000*/                   LDC R1, c[0x0][0x28] ;       /* 0x00000a00ff017b82 */
                                                                /* 0x000e620000000800 */
        /*0010*/                   HMMA.16816.F32 R4, R20, R8, RZ ;  /* 0x000000181418723c */
        /*0020*/              @!P0 UCGABAR_ARV ;                /* 0x00000000000079c7 */
        /*0030*/                   UCGABAR_WAIT ;               /* 0x0000000000007dc7 */
"""
STORE = "        /*0040*/               @P0 STL.128 [R1], R4 ;   /* 0x0000000401007387 */\n"


def self_test() -> int:
    """Judge planted texts, and count those that are judged wrongly."""
    count = 0

    def expect(what: str, wanted: str, functions: list[Function], sass: str = "") -> None:
        """Expect one mistake that has `wanted` in it, or none if that is empty."""
        nonlocal count
        found = check(functions, read_sass(sass.splitlines()))
        good = len(found) == 1 and wanted in found[0] if wanted else not found
        count += not good
        print(f"{what}: {'ok' if good else f'SELF-TEST FAILED: {found}'}")

    def log(*replacements: tuple[str, str], text: str = LOG) -> list[Function]:
        for old, new in replacements:
            assert old in text, old
            text = text.replace(old, new)
        return read_log(text.splitlines())

    def resources(old: str = "", new: str = "") -> list[Function]:
        assert old in RESOURCES, old
        return read_resources(RESOURCES.replace(old, new).splitlines())

    expect("a clean log", "", log())
    expect("spill stores", "8 bytes spilled", log(("0 bytes spill stores", "8 bytes spill stores")))
    expect("spill loads", "4 bytes spilled", log(("0 bytes spill loads", "4 bytes spill loads")))
    expect("a stack frame", "160 bytes of stack", log(("0 bytes stack", "160 bytes stack")))
    expect("one in a function called", "40 bytes of stack", log(text=LOG + CALLED))
    expect("registers", "129 registers, expected at most 128", log(("Used 128", "Used 129")))
    expect("more of them, for more rows", "", log((KERNEL, KERNEL_4), ("Used 128", "Used 255")))
    expect(
        "static shared memory",
        "64 bytes of static",
        log(("1 barriers", "1 barriers, 64 bytes smem")),
    )
    expect("a kernel without a rule", "no rule", log(("17recurrent_forward", "13other_forward")))
    expect("an empty log", "has no kernel", log(text="nvcc warning : nothing\n"))
    two = LOG + LOG.replace("sm_90", "sm_80").replace("Used 128", "Used 130")
    expect("the second of two architectures", "sm_80", log(text=two))

    expect("a clean binary", "", resources(), SASS)
    expect("its registers", "200 registers", resources("REG:128", "REG:200"), SASS)
    expect("its stack", "16 bytes of stack", resources("STACK:0", "STACK:16"), SASS)
    expect("its local memory", "8 bytes of local", resources("LOCAL:0", "LOCAL:8"), SASS)
    expect("its shared memory", "256 bytes", resources("SHARED:1024", "SHARED:1280"), SASS)
    expect("no tensor cores", "has no HMMA", resources(), SASS.replace("HMMA", "HFMA2"))
    expect(
        "no barrier of the cluster", "UCGABAR_WAIT", resources(), SASS.replace("R_WAIT", "R_GET")
    )
    older = SASS.replace("sm_90", "sm_80").replace("UCGABAR", "NOP")
    expect("none needed before Hopper", "", resources(), older)
    expect("local memory", "STL.128", resources(), SASS + STORE)
    in_float = SASS.replace(KERNEL, KERNEL_FLOAT)
    expect(
        "tensor cores in float32", "has HMMA.16816.F32", resources(KERNEL, KERNEL_FLOAT), in_float
    )
    print("self-test: " + ("FAILED" if count else "ok"))
    return count


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Check compiled CUDA kernels without a GPU.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--sass", action="store_true", help="check the instructions of binaries")
    parser.add_argument("--self-test", action="store_true", help="prove that mistakes are found")
    arguments = parser.parse_args()
    if arguments.self_test == bool(arguments.files):
        parser.error("give files, or --self-test")
    if arguments.self_test:
        return min(1, self_test())
    return min(1, check_files(arguments.files, arguments.sass))


if __name__ == "__main__":
    sys.exit(main())
