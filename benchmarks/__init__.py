"""This library beside the official SQLite saver, `InMemorySaver` and bare sqlite3.

`python -m benchmarks` from the root of the repository prints one table and writes
`results.json` and `results.png`. Every bar is on a ratio within that run, or on a time that
matters by itself, because throughput says little about another machine. Take the numbers with a
grain of salt all the same: what a commit at `synchronous=FULL` costs depends on the disk.
"""
