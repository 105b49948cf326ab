"""A process that has imported both stages, and forks for each command that it is sent; not a test.

``python fork_server.py SOCKET``: each message on the socket of that number is one command, with the
three streams that it is to have. What is forked is a process like any other: it has a number of its
own, can be killed, gets signals, and has its own environment. It is handed to the process that
asked (see warm_processes.py). Its imports are not its own, and libraries in C do not
hear of its end.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import json
import os
import runpy
import signal
import socket
import sys
import threading

MOST_BYTES = 1 << 20
IMPORTED = (
    "sklearn.datasets", "sklearn.linear_model", "scipy.linalg", "torch", "timm", "h5py",
    "matplotlib.backends.backend_svg", "safetensors.torch", "PIL.Image", "requests", "pooch",
    "extract.__main__", "extract.run", "extract.shards.fill", "extract.commands.embed_images",
    "classify.__main__", "classify.fit.fit_store", "classify.predict", "classify.report.comparison",
    "classify.report.answers_page", "classify.fit.fit_stores", "jinja2", "matplotlib.figure",
    "matplotlib.contour", "sklearn.decomposition", "sklearn.discriminant_analysis",
    "sklearn.isotonic", "scipy.cluster.hierarchy", "safetensors.numpy", "extract.engines.tuning",
    "extract.engines.folding", "data.images.sources.digits", "data.images.sources.folder",
    "PIL.JpegImagePlugin",
    "huggingface_hub.constants",
)  # fmt: skip


def serve(asked):
    """Fork for each message; return in the forked process, with the command."""
    while True:
        message, streams, _, _ = socket.recv_fds(asked, MOST_BYTES, 3)
        if not message:
            os._exit(0)
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid:
                # Its parent ends, so that it becomes a child of the process that asked.
                os.write(writer, str(pid).encode())
                os._exit(0)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for descriptor in {*streams, reader, writer, asked.detach()}:
                os.close(descriptor)
            return json.loads(message)
        os.waitpid(between, 0)
        asked.send(os.read(reader, 100))
        for descriptor in {*streams, reader, writer}:
            os.close(descriptor)


def become(command):
    """Be the process that the command asks for, and run it as ``python`` would."""
    if command["start_new_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(command["env"])
    # The hub's library reads its settings when it is imported, and looks them up here afterwards.
    importlib.reload(sys.modules["huggingface_hub.constants"])
    os.chdir(command["cwd"])
    first, *words = command["words"]
    if first == "-m":
        sys.argv = words
        sys.modules.pop(f"{words[0]}.__main__", None)  # it is run, not imported
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *words[1:]]
        exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *words]
        runpy.run_path(first, run_name="__main__")


def end(run):
    """End as Python does, but for what is freed one by one: half a second with torch loaded."""
    code = 0
    try:
        run()
    except SystemExit as leaving:
        code = leaving.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in IMPORTED:
        importlib.import_module(name)
    if importlib.util.find_spec("openvino"):
        from extract.engines.openvino import without_telemetry

        without_telemetry()
    gc.freeze()
    command = serve(socket.socket(fileno=int(sys.argv[1])))
    end(lambda: become(command))
