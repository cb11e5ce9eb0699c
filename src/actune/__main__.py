"""`python -m actune`, also under `torchrun -m actune`."""

from actune.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
