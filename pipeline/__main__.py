"""python -m pipeline COMMAND [flags]: the jobs of an installed package."""

from pipeline.runtime.commands import run_package

if __name__ == "__main__":
    run_package()
