"""`python -m igkd_search` is `igkd`."""

from igkd_search.cli import main

if __name__ == "__main__":
    main()
