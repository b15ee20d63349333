"""The CUDA backend: the kernels of cuda/, compiled by CuPy at first use and launched on PyTorch's current stream.

    ddf.py branches.py      the operators: from tensors to jobs
    job.py                  what a plan depends on
    plan.py                 from a job to its launches: tiling.py by cost.py, records.py (the kernels' parameter blocks)
    launch.py               keeps plans and kernels, and launches them
    compile.py warmup.py    CuPy; specialisations.py and sources.py are what it compiles

Nothing of CUDA is touched before the first call, and only compile.py knows CuPy.
"""
