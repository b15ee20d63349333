"""PTX, as NVRTC emits it, taken apart for ptx/machine.cpp."""

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy

INSTRUCTION = numpy.dtype(  # Instruction in ptx/machine.cpp
    [
        *((name, "i4") for name in ("operation", "predicate", "negated", "target", "result")),
        ("sources", "i4", 3),
        ("lanes", "i4", 4),
        *((name, "i4") for name in ("count", "bytes", "is_signed", "space", "number")),
    ]
)
SPECIAL_REGISTERS = ("%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x")
SPACES = {"global": 0, "global.nc": 1, "shared": 2, "param": 3}
NAMES = {"bra": "branch", "bra.uni": "branch", "ret": "return", "exit": "return", "bar.sync": "barrier"}
NAMES |= {"barrier.sync": "barrier", "cp.async.commit_group": "commit", "cp.async.wait_group": "wait"}
LINE = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*?)\s*;")
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.[busf](\d+)\s+(?:\.ptr\s+\.align\s+\d+\s+)?(\w+)(?:\[(\d+)\])?"
)


class PtxKernel:
    """One kernel of a module: its instructions, its constants, and how its parameters lie side by side."""

    def __init__(self, text: str, name: str, number_of: Callable[[str], int], shared_base: int):
        """`number_of`: of an operation, by its name; `shared_base`: the address of shared memory."""
        self.name, self.number_of = name, number_of
        entry = re.search(rf"\.visible \.entry {name}\((.*?)\)(.*?)\n\{{\n(.*?)\n\}}", text, re.DOTALL)
        assert entry and not re.search(r"\.local|\.func|\.const\b|^\.(shared|global)", text, re.MULTILINE), name
        limit = re.search(r"\.maxntid (\d+)", entry[2])
        self.most_threads = int(limit[1]) if limit else 1024
        memory = re.search(r"\.extern \.shared \.align 16 \.b8 (\w+)\[\];", text)
        self.symbols = {memory[1]: shared_base} if memory else {}
        self.parameters = list(self._lay_out(entry[1]))
        self.registers: dict[str, int] = {"_": 0}  # what goes nowhere
        self.constants: dict[int, int] = {}
        labels: dict[str, int] = {}
        self.lines: list[str] = []
        for line in (line.split("//")[0].strip() for line in entry[3].splitlines()):
            if declared := re.fullmatch(r"\.reg \.\w+\s+(%\w+)<(\d+)>;", line):
                for number in range(int(declared[2])):
                    self.registers[f"{declared[1]}{number}"] = len(self.registers)
            elif label := re.fullmatch(r"(\$\w+):", line):
                labels[label[1]] = len(self.lines)
            elif line and line not in "{}" and not line.startswith(".pragma"):
                self.lines.append(line)
        self.code = numpy.zeros(len(self.lines), INSTRUCTION)
        for instruction, line in zip(self.code, self.lines, strict=True):
            self._decode(instruction, line, labels)

    def _lay_out(self, declarations: str) -> Iterator[tuple[int, int]]:
        """Yield where each parameter begins and how many bytes it has."""
        end = 0
        for declaration in filter(None, (part.strip() for part in declarations.split(",\n"))):
            found = PARAMETER.fullmatch(declaration)
            assert found, declaration
            item = int(found[2]) // 8
            size, alignment = item * int(found[4] or 1), int(found[1] or item)
            begin = -(-end // alignment) * alignment
            self.symbols[found[3]] = begin
            yield begin, size
            end = begin + size

    def pack(self, arguments: list) -> bytes:
        """Put the arguments beside each other as the driver does: of each as many bytes as the kernel declares."""
        assert len(arguments) == len(self.parameters), f"{self.name} has {len(self.parameters)} parameters"
        begin, size = self.parameters[-1]
        block = bytearray(begin + size)
        for (begin, size), value in zip(self.parameters, arguments, strict=True):
            data = value.to_bytes(8, "little", signed=value < 0) if isinstance(value, int) else value.tobytes()
            assert len(data) == size, f"{self.name}: {size} bytes declared, {len(data)} given"
            block[begin : begin + size] = data
        return bytes(block)

    def constant_values(self) -> numpy.ndarray:
        return numpy.array([*self.constants, 0], "u8")

    def accesses(self, executed: numpy.ndarray) -> Counter:
        """Return how often threads copied, loaded and stored, by the kind and the bytes of an access."""
        found: Counter = Counter()
        names = {self.number_of(name): name for name in ("load", "store", "copy")}
        spaces = {number: name.removesuffix(".nc") for name, number in SPACES.items()}
        for instruction, number in zip(self.code, executed, strict=True):
            name, size = names.get(int(instruction["operation"])), int(instruction["count"] * instruction["bytes"])
            if name == "copy":
                found[name, int(instruction["number"])] += int(number)
            elif name:
                found[f"{name}.{spaces[int(instruction['space'])]}", size] += int(number)
        return found

    def _slot(self, operand: str) -> int:
        """Return the register of an operand; constants have registers too."""
        if operand in self.registers:
            return self.registers[operand]
        if operand in SPECIAL_REGISTERS:
            return len(self.registers) + SPECIAL_REGISTERS.index(operand)
        if operand in self.symbols:
            value = self.symbols[operand]
        elif number := re.fullmatch(r"0[fd]([0-9A-F]+)", operand):
            value = int(number[1], 16)
        else:
            value = int(operand, 0) % 2**64
        number = self.constants.setdefault(value, len(self.constants))
        return len(self.registers) + len(SPECIAL_REGISTERS) + number

    def _address(self, operand: str) -> tuple[int, int]:
        """Return the register of an address and what is added to it."""
        found = re.fullmatch(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        assert found, operand
        return self._slot(found[1]), int(found[2] or 0)

    def _lanes(self, operand: str) -> list[int]:
        return [self._slot(part.strip()) for part in operand.strip("{}").split(",")]

    def _decode(self, to, line: str, labels: dict[str, int]) -> None:
        found = LINE.fullmatch(line)
        if not found:
            raise ValueError(f"the machine cannot read {line!r}")
        negated, predicate, name, rest = found.groups()
        operands = OPERAND.findall(rest)
        to["predicate"], to["negated"] = (self.registers[predicate] if predicate else -1), bool(negated)
        to["sources"] = self._slot("0")
        kind, *parts = name.split(".")
        if kind in ("ld", "st"):
            self._decode_access(to, line, parts, operands if kind == "ld" else operands[::-1])
            name = {"ld": "load", "st": "store"}[kind]
        elif name in ("cp.async.ca.shared.global", "cp.async.cg.shared.global"):
            to["number"] = size = int(operands[2])
            assert size == 16 or (size in (4, 8) and ".ca." in name), line
            (target, moved), (source, further) = self._address(operands[0]), self._address(operands[1])
            assert moved == further == 0, line
            to["sources"] = target, source, self._slot(operands[3] if len(operands) > 3 else operands[2])
            name = "copy"
        elif name in ("mov.b32", "mov.b64") and "{" in rest:
            name = "unpack" if operands[0].startswith("{") else "pack"
            whole, lanes = (operands[1], operands[0]) if name == "unpack" else operands
            self._set_lanes(to, self._lanes(lanes), int(parts[0][1:]) // 8 // len(self._lanes(lanes)))
            to["sources"][0] = to["result"] = self._slot(whole)
        elif NAMES.get(name) == "branch":
            to["target"] = labels[operands[0]]
        elif NAMES.get(name) == "wait":
            to["number"] = int(operands[0])
        elif NAMES.get(name) == "barrier":
            assert operands == ["0"], line
        elif name not in NAMES:
            to["result"] = self.registers[operands[0]]
            for index, operand in enumerate(operands[1:]):
                to["sources"][index] = self._slot(operand)
        to["operation"] = self.number_of(NAMES.get(name, name))
        if to["operation"] < 0:
            raise ValueError(f"the machine does not know {line!r}")

    def _decode_access(self, to, line: str, parts: list[str], operands: list[str]) -> None:
        """Decode a load, `operands` being what is loaded and its address, or a store."""
        *space, kind = parts
        lanes, (address, number) = self._lanes(operands[0]), self._address(operands[1])
        vector = [part for part in space if part in ("v2", "v4")]
        assert len(lanes) == int(vector[0][1]) if vector else len(lanes) == 1, line
        to["space"] = SPACES[".".join(part for part in space if part not in vector)]
        to["sources"][0], to["number"], to["is_signed"] = address, number, kind.startswith("s")
        self._set_lanes(to, lanes, int(kind[1:]) // 8)
        assert len(lanes) * to["bytes"] <= 16, line

    @staticmethod
    def _set_lanes(to, lanes: list[int], size: int) -> None:
        to["lanes"][: len(lanes)], to["count"], to["bytes"] = lanes, len(lanes), size


class Kernel(ctypes.Structure):
    """Kernel in ptx/machine.cpp."""

    _fields_ = (
        ("code", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
        ("registers", ctypes.c_int32),
        ("constant_count", ctypes.c_int32),
        ("executed", ctypes.c_void_p),
    )
