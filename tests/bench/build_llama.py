"""Builds the llama.cpp programs that paired.py, serving.py and quality.py compare with.

    python3 build_llama.py FOLDER     leaves FOLDER/build/bin/llama-bench and its neighbours

The source is the one that PyPI's llama-cpp-python carries, so that a version number names it;
LLAMA_CPP_PYTHON_VERSION asks for another than the latest, JOBS sets how many compilers run.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

TARGETS = ["llama-bench", "llama-batched-bench", "llama-perplexity", "llama-server"]
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_SERVER": "ON",
    # The server's pages in the browser: neither built nor, as by default, fetched.
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
}


def run(*command):
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True)


def compilers():
    """C and C++: clang's kernels for K-quants are much faster than gcc 12's, and the strong peer is meant."""
    for c, cxx in [("clang-19", "clang++-19"), ("clang", "clang++")]:
        if shutil.which(c) and shutil.which(cxx):
            return c, cxx
    print("no clang here: cc may give slower kernels for K-quants", file=sys.stderr)
    return "cc", "c++"


def archive(folder):
    """The source archive, fetched where it is not there yet."""
    found = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if not found:
        version = os.environ.get("LLAMA_CPP_PYTHON_VERSION")
        package = f"llama-cpp-python=={version}" if version else "llama-cpp-python"
        pip = [sys.executable, "-m", "pip", "download", "--no-deps"]
        run(*pip, "--no-binary", "llama-cpp-python", "--dest", folder, package)
        found = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    return found[-1]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if not shutil.which("cmake"):
        sys.exit("build_llama.py: cmake is missing")
    folder = pathlib.Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    source = archive(folder)
    with tarfile.open(source) as packed:
        packed.extractall(folder, filter="data")
    tree = folder / source.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    c, cxx = compilers()
    options = OPTIONS | {"CMAKE_C_COMPILER": c, "CMAKE_CXX_COMPILER": cxx}
    build = folder / "build"
    run("cmake", "-S", tree, "-B", build, *(f"-D{key}={value}" for key, value in options.items()))
    jobs = os.environ.get("JOBS") or os.cpu_count() or 2
    targets = [part for target in TARGETS for part in ("--target", target)]
    run("cmake", "--build", build, "--parallel", jobs, *targets)
    run(build / "bin" / "llama-bench", "--version")


if __name__ == "__main__":
    main()
