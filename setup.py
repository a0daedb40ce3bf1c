"""Compiles csrc/ without torch: two CPU builds of one source, and CUDA where nvcc is found.

An extension that fails to build is left out, with the reason in `mmxai/_build.json` for `mmxai info`. In the
environment, `MMXAI_REQUIRE_NATIVE=1` makes such a failure fatal and `MMXAI_CUDA=0` leaves CUDA out.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError

CPU_FLAGS = ["-std=c++17", "-O3", "-g0", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
BF16_PROBE = """#include <immintrin.h>
__attribute__((target("avx512f,avx512bf16"))) __m512 probe(__m512 sum, __m512i x) {
  return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)x);
}
int runs() { return __builtin_cpu_supports("avx512bf16"); }
"""
GPUS = ("80", "90", "100")  # Ampere, Hopper, Blackwell


def cpu_extension(name: str, flags: list[str]) -> Extension:
    return Extension(
        f"mmxai.{name}",
        ["csrc/bind/cpu.cpp", "csrc/bind/codes.cpp", "csrc/bind/dissect.cpp", "csrc/bind/unembed.cpp"],
        define_macros=[("MMXAI_MODULE", name)],
        extra_compile_args=[*CPU_FLAGS, *flags],
        extra_link_args=["-pthread"],
        depends=[str(p) for folder in ("bind", "core") for p in Path("csrc", folder).glob("*.h")],
        language="c++",
    )


def nvcc() -> str | None:
    """CUDA's compiler, or None where there is none or it is not wanted."""
    if os.environ.get("MMXAI_CUDA") == "0" or sys.platform != "linux":
        return None
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")


def extensions() -> list[Extension]:
    found = [cpu_extension("_cpu_base", [])]
    if X86:
        found.append(cpu_extension("_cpu_v3", ["-march=x86-64-v3"]))
    if nvcc():
        sources = ["csrc/bind/cuda.cpp", *sorted(str(p) for p in Path("csrc/cuda").glob("*.cu"))]
        headers = [str(p) for p in Path("csrc/cuda").glob("*h")]
        found.append(Extension("mmxai._cuda", sources, depends=headers, language="c++"))
    return found


class Build(build_ext):
    """Goes on when an extension fails, and writes what the compiler said where `mmxai.kernels` finds it."""

    def run(self) -> None:
        super().run()
        failures = dict(self.failures)
        if not nvcc():
            failures["_cuda"] = "mmxai was built where nvcc was not found (or with MMXAI_CUDA=0)"
        in_source = self.inplace or self.editable_mode
        package = Path("." if in_source else self.build_lib) / "mmxai"
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.json").write_text(json.dumps(failures, indent=1) + "\n")
        built = {extension.name.rpartition(".")[2] for extension in self.extensions}
        for name in {"_cpu_base", "_cpu_v3", "_cuda"} - built:  # leftovers of an earlier build
            for stale in package.glob(f"{name}.*"):
                stale.unlink()

    def build_extensions(self) -> None:
        import pybind11

        failures: dict[str, str] = {}
        bf16 = X86 and self.knows_bf16()
        for extension in list(self.extensions):
            extension.include_dirs.append(pybind11.get_include())
            name = extension.name.rpartition(".")[2]
            try:
                if name == "_cuda":
                    self.build_cuda(extension)
                else:
                    if bf16:
                        extension.define_macros.append(("MMXAI_TOPK_PRODUCT", "1"))
                    self.build_cpu(extension)
            except (BaseError, CCompilerError, OSError) as error:
                failures[name] = f"it did not compile: {error}"
                self.extensions.remove(extension)
                self.warn(f"{extension.name}: {failures[name]}; going on without it")
        if failures and os.environ.get("MMXAI_REQUIRE_NATIVE") == "1":
            raise CompileError(f"MMXAI_REQUIRE_NATIVE=1, and these did not build: {failures}")
        self.failures = failures

    def knows_bf16(self) -> bool:
        """Whether compiler and assembler know AVX512-BF16: an old assembler fails under a new compiler."""
        folder = Path(self.build_temp)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / "bf16_probe.cpp"
            probe.write_text(BF16_PROBE)
            self.compiler.compile([str(probe)], output_dir=str(folder / "probe"), extra_postargs=CPU_FLAGS)
        except (BaseError, CCompilerError, OSError) as error:
            self.warn(f"topk_product is left out, AVX512-BF16 does not compile here: {error}")
            return False
        return True

    def build_cpu(self, extension: Extension) -> None:
        """One source, several objects: each extension gets its own folder for them."""
        shared = self.build_temp
        self.build_temp = os.path.join(shared, extension.name)
        try:
            self.build_extension(extension)
        finally:
            self.build_temp = shared

    def build_cuda(self, extension: Extension) -> None:
        compiler = nvcc()
        known = set(re.findall(r"compute_(\d+)", self.output([compiler, "--list-gpu-arch"])))
        targets = [g for g in GPUS if g in known]
        if not targets:
            raise CompileError(f"{compiler} compiles for none of sm_{', sm_'.join(GPUS)}")
        codes = [f"-gencode=arch=compute_{g},code=sm_{g}" for g in targets]
        codes.append(f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}")
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{folder}" for folder in [*self.include_dirs, *extension.include_dirs]]
        flags = ["-O3", "-std=c++17", "--threads=0", "-cudart=static", "-shared", "-Xcompiler=-fPIC"]
        flags += ["-Xcompiler=-fvisibility=hidden", "-DMMXAI_MODULE=_cuda"]
        self.output([compiler, *flags, *codes, *includes, *extension.sources, "-o", str(target)])

    def output(self, command: list[str]) -> str:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CompileError(f"{command[0]}: {result.stderr.strip()[-2000:]}")
        return result.stdout


setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
