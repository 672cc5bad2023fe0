"""Lets PyTorch's ordinary wheel for Linux be imported without gigabytes of CUDA libraries.

    python without_cuda.py SITE_PACKAGES

The wheel (``pip install --no-deps torch``) is linked with libraries of NVIDIA that only a GPU
needs. Beside it this writes empty ones of the same names, whose functions end the process when
they are called, which on a CPU none is. Real ones that are installed stay what they are: libcudart
and libcupti are small, and used while torch is loaded. It also takes these packages out of what the
wheel says it requires, so that pip installs the rest and not them. Needs a C compiler and readelf.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

NEEDED = re.compile(r"\(NEEDED\).*\[(lib(?:cu|nv|nccl)[^\]]*)\]")
FILE_OF_VERSIONS = re.compile(r"File: (\S+)")
VERSION = re.compile(r"Name: (\S+) .*Version: (\d+)")
UNDEFINED = re.compile(r" UND (\w+)(?:@\S+ \((\d+)\))?$")
DRIVER = "libcuda.so.1"
"""Comes with a GPU's driver; torch looks for it itself, and must not find one."""

FOR_GPUS = re.compile(r"Requires-Dist: (?:nvidia-|cuda-|triton).*\n")
UNVERSIONED = ("nccl", "cusparseLt", "cuFile")
"""First letters of what these libraries export without a version: any stand-in may have it."""


def read(library):
    """Return the NVIDIA libraries that it needs, and of which it wants which (version, symbol)."""
    text = subprocess.run(
        ["readelf", "--wide", "--dynamic", "--version-info", "--dyn-syms", library],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    versions, file = {}, ""
    for line in text.splitlines():
        if found := FILE_OF_VERSIONS.search(line):
            file = found[1]
        elif found := VERSION.search(line):
            versions[found[2]] = (file, found[1])
    wanted = defaultdict(set)
    for line in text.splitlines():
        if found := UNDEFINED.search(line):
            name, index = found.groups()
            if index in versions:
                wanted[versions[index][0]].add((versions[index][1], name))
            elif index is None and name.startswith(UNVERSIONED):
                wanted["libnccl.so.2"].add(("", name))
    return set(NEEDED.findall(text)), wanted


def build(path, symbols):
    """Compile the stand-in: each symbol a function that ends the process."""
    code = "".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for _, name in sorted(symbols))
    map_text = "".join(
        f"{version} {{ global: {''.join(f'{name};' for v, name in symbols if v == version)} }};\n"
        for version in sorted({version for version, _ in symbols} - {""})
    )
    version_script = path.with_suffix(".map")
    version_script.write_text(map_text)
    options = [f"-Wl,--version-script={version_script}"] if map_text else []
    subprocess.run(
        ["cc", "-shared", "-x", "c", "-", f"-Wl,-soname,{path.name}", *options, "-o", path],
        input=code,
        text=True,
        check=True,
    )
    version_script.unlink()


def main(site_packages):
    """Write a stand-in for every library of NVIDIA that torch needs and that is not there."""
    folder = site_packages / "torch" / "lib"
    present = {path.name for path in site_packages.glob("nvidia/**/*.so*")}
    needed, wanted = set(), defaultdict(set)
    for library in [*folder.glob("lib*.so"), *folder.parent.glob("_C*.so")]:
        of, wants = read(library)
        needed |= of
        for name, symbols in wants.items():
            wanted[name] |= symbols
    for name in sorted(needed - present - {DRIVER}):
        build(folder / name, wanted[name])
        print(f"stand-in: {name} ({len(wanted[name])} symbols)")
    for metadata in site_packages.glob("torch-*.dist-info/METADATA"):
        metadata.write_text(FOR_GPUS.sub("", metadata.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
