"""What the compiler makes of the CUDA kernels: registers, and the instructions of their loops, by kind.

    python benchmarks/gpu_instructions.py "differentiate<double, 4, 2>" "evaluate<double, 4, 2>"

No GPU is needed, but a compiler and a disassembler: `pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm`. Loops are
named by the function of the sources that most of their instructions come from; those shorter than `--least` are not
shown, nor those with a longer one inside. Counts are those of the machine code, all branches included, also those that
are rarely taken. `--source FILE` takes another text of the sources, such as `kanmg.evaluators.gpu_source.source()` of
another commit.
"""

from __future__ import annotations

import argparse
import collections
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness import print_table

from kanmg.evaluators.gpu_source import OPTIONS, VARIANTS, source
from kanmg.testing.nvrtc import compile_cuda, find_file

KINDS = {
    "FP64": ("DFMA", "DADD", "DMUL", "DSETP"),
    "FP32": ("FFMA", "FADD", "FMUL", "FSETP"),
    "shared": ("LDS", "STS", "ATOMS"),
    "global": ("LDG", "STG", "RED", "REDG", "ATOMG"),
    "unknown memory": ("LD", "ST"),
    "local": ("LDL", "STL"),
    "branch": ("BRA", "BSSY", "BSYNC", "CALL"),
}


def compiled(name, text, architecture):
    """Compile one kernel of a source to machine code; returns that and what the compiler says."""
    options = [*OPTIONS, f"--gpu-architecture={architecture}", "-lineinfo", "--ptxas-options=-v"]
    try:
        status, log, _, code = compile_cuda(text, [name], options)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    if status:
        raise SystemExit(log)
    return code, log


def disassembled(code):
    """Disassemble a kernel."""
    tool = shutil.which("nvdisasm") or find_file("*/bin/nvdisasm")
    if tool is None:
        raise SystemExit("nvdisasm is not installed. Write `pip install nvidia-cuda-nvdisasm`.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(code)
        command = [str(tool), "-c", "-gi", str(file)]
        if not shutil.which("nvdisasm"):
            command = ["/lib64/ld-linux-x86-64.so.2", *command]  # wheels do not mark it as executable
        run = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - NVIDIA's tool
        return run.stdout.splitlines()


def parsed(lines):
    """List instructions as (opcode, text, line of the source), and where labels are."""
    instructions, labels, line, is_comment = [], {}, 0, False
    for text in lines:
        place = re.search(r'//## File ".*?", line (\d+)', text)
        if place:
            # Of several lines, the first is that of the function in which the instruction is written.
            line = line if is_comment else int(place[1])
            is_comment = True
            continue
        is_comment = False
        label = re.match(r"(\.L_x_\d+):", text)
        if label:
            labels[label[1]] = len(instructions)
        instruction = re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9]+)(\S*\s.*?)?;", text)
        if instruction:
            instructions.append((instruction[1], instruction[0], line))
    return instructions, labels


def loops_of(instructions, labels, least):
    """Find the ranges of instructions between a label and a jump back to it, without others of that length inside."""
    loops = []
    for end, (opcode, text, _) in enumerate(instructions):
        target = re.search(r"`\((\.L_x_\d+)\)", text) if opcode == "BRA" else None
        if target and labels.get(target[1], end + 1) <= end + 1 - least:
            loops.append((labels[target[1]], end + 1))
    inside = lambda inner, outer: outer[0] <= inner[0] and inner[1] <= outer[1] and inner != outer  # noqa: E731
    return sorted(loop for loop in set(loops) if not any(inside(other, loop) for other in loops))


def function_of(line, text):
    """Name the function of the sources that holds a line."""
    for number in range(line - 1, -1, -1):
        found = re.match(r"(?:    )?(?:template <.*?> )?(?:DEVICE|KERNEL|PART)\b[^;]*?(\w+)\(", text[number])
        if found:
            return found[1]
    return "?"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", default=["evaluate<double, 4, 2>", "differentiate<double, 4, 2>"])
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--source", type=Path, help="a file with the sources")
    parser.add_argument("--least", type=int, default=40, help="instructions of the shortest loop that is shown")
    arguments = parser.parse_args()
    text = arguments.source.read_text() if arguments.source else source(VARIANTS[0])
    for name in arguments.kernels:
        code, log = compiled(name, text, arguments.architecture)
        entry = log[log.index("Compiling entry function") :]
        registers, stack = re.search(r"Used (\d+) registers", entry)[1], re.search(r"(\d+) bytes stack", entry)[1]
        instructions, labels = parsed(disassembled(code))
        unknown = sum(opcode in KINDS["unknown memory"] for opcode, _, _ in instructions)
        print(
            f"\n{name}: {registers} registers, {stack} bytes of stack, {len(instructions)} instructions, {unknown} of"
        )
        print("them with memory that may be shared or global\n")
        rows = []
        for begin, end in loops_of(instructions, labels, arguments.least):
            own = instructions[begin:end]
            functions = collections.Counter(function_of(line, text.splitlines()) for _, _, line in own)
            counts = [sum(opcode in kinds for opcode, _, _ in own) for kinds in KINDS.values()]
            rows.append((functions.most_common(1)[0][0], len(own), *counts, len(own) - sum(counts)))
        print_table(("loop of", "instructions", *KINDS, "other"), rows)


if __name__ == "__main__":
    main()
