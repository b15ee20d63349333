"""A number with its noun: 1 epoch, 2 epochs, 3 classes."""


def counted(number: float, noun: str, plural: str = "") -> str:
    plural = plural or (f"{noun}es" if noun.endswith("s") else f"{noun}s")
    return f"{number:,} {noun if number == 1 else plural}"
