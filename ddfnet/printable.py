"""Names as the file system has them, made fit for a console or a picture."""


def printable(text: str) -> str:
    """The text with bytes that are no UTF-8 as "\\xff": printed as they are, they would be an error.

    Files hold such names as the file system does, by the error handler "surrogateescape"; nothing is lost there.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
