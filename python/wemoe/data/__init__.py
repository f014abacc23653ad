"""Data that a model reads: of the built-in suite, and of tasks in files.

`text6` is the frozen pack of six text tasks that ships with the package, `minilm` fetches a real pre-trained model for
it, `cache` keeps on disk what takes time to make. `tables` reads the rows of JSON Lines, CSV and TSV files, `labels`
numbers their labels, `readers` and `images` make of them what a model reads, and `task_files` puts a task together.
`batches` is what all of them end in: samples, and padded batches of them.
"""
