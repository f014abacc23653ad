"""Real data and a real pre-trained model, small enough for a quick start.

`text6` is the frozen pack of six text tasks that ships with the package; `minilm` fetches the model; `batches` turns
texts into padded batches; `cache` keeps on disk what takes time to make.
"""
