"""`sample-caller`, `python -m caller`."""

from caller.cli import app


def main() -> None:
    app(prog_name="sample-caller")


if __name__ == "__main__":
    main()
