# What .ci/run and .ci/deep are made of: a clean clone of HEAD in a temporary folder, and steps that
# each check one thing there. Both source this file, which prepares and checks nothing by itself.
#
# Needs Python 3.11+ with its headers, g++, and Debian's packages below, which it installs where it may.
set -euo pipefail
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
export PYTEST_ADDOPTS=--durations=30
unset FUSEDRNN_ISA FUSEDRNN_NUM_THREADS FUSEDRNN_CUDA OMP_NUM_THREADS PYTHONPATH

python=${PYTHON:-python3}
nvcc=$(command -v nvcc || true)
root=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
commit=$(git -C "$root" rev-parse HEAD)
work=$(mktemp -d)
current=start
verdict=  # none yet
times=()  # of the steps
declare -A running=()  # what goes on in the background: process groups, and their names

# What was compiled before comes from the cache, whatever this clone's folder is called. (The name of
# the compiler counts: scikit-build-core says g++, CMake c++.)
export CC=gcc CXX=g++
export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
export CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1

# The end, however it comes: the commit, whether all holds or which step failed, and how long each took.
# In the file `record` too, where the script has set it.
finish() {
  end_running
  printf '%s\n' "$commit ${verdict:-"FAILED: $current"}" "${times[@]}" \
    "$(printf '%5d s  in all' $SECONDS)" >"$work/verdict"
  printf '\n'
  cat "$work/verdict"
  [ -z "${record:-}" ] || { mkdir -p "$(dirname "$record")" && cp "$work/verdict" "$record"; }
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP  # else the status at the end would be that of the command before

# The last command of a script: every step has passed.
all_is_fine() {
  verdict="green$([ "$nvcc" ] || echo ', without the CUDA side: no nvcc')"
}

# Ends what goes on in the background, each with all that it started. (One may have ended meanwhile,
# which is as good.)
end_running() {
  local group
  for group in "${!running[@]}"; do kill -- "-$group" 2>/dev/null || true; done
  running=()
}

# step NAME COMMAND...: the first command that fails, also within a function, ends the script.
# (So no step stands in a condition: `if` and `||` would switch that off.)
step() {
  local begin=$SECONDS
  current=$1
  printf '\n== %s\n' "$current"
  "${@:2}"
  times+=("$(printf '%5d s  %s' $((SECONDS - begin)) "$current")")
  printf -- '-- %s: %d s\n' "$current" $((SECONDS - begin))
}

# side_by_side FUNCTION...: all at once, since much of this is work of one thread. Each one's output
# is printed whole when it ends; the first that fails ends the others, with all that they started.
side_by_side() {
  local name group status
  set -m  # a process group for each
  for name in "$@"; do
    (trap - EXIT INT TERM HUP; SECONDS=0; "$name"; echo "$SECONDS s") >"$work/$name.log" 2>&1 &
    running[$!]=$name
  done
  set +m
  while [ ${#running[@]} -gt 0 ]; do
    status=0
    wait -n -p group "${!running[@]}" || status=$?
    printf -- '-- %s\n' "${running[$group]}"
    cat "$work/${running[$group]}.log"
    unset "running[$group]"
    [ $status = 0 ] || { end_running; return $status; }
  done
}

# quietly COMMAND...: what it prints, only if it fails.
quietly() {
  local log status=0
  log=$(mktemp -p "$work")
  "$@" >"$log" 2>&1 || status=$?
  [ $status = 0 ] || tail -n 60 "$log"
  return $status
}

# changed PATH...: whether one of them is another than a day before the newest commit. That much a
# clone can tell of what is about to land.
changed() {
  local base
  base=$(git rev-list -1 --before="$(($(git log -1 --format=%ct) - 86400))" HEAD)
  [ -z "$base" ] || ! git diff --quiet "$base" HEAD -- "$@"
}

# system_packages MORE...
system_packages() {
  local sudo='' packages=(ccache cmake doctest-dev g++-aarch64-linux-gnu ninja-build
    qemu-user-static valgrind "$@")
  dpkg -s "${packages[@]}" >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] || sudo=sudo
  quietly $sudo apt-get update -q
  quietly $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${packages[@]}"
}

# ---- Python --------------------------------------------------------------------------------------

# The README's own command, in a clean checkout. It makes the virtual environment .venv, which the
# other tests of the Python side use too.
readme_tests() {
  local command
  command=$(grep -m1 -E '^python3 -m venv .*python -m pytest' README.md)
  echo "$command"
  SKBUILD_CMAKE_DEFINE=FUSEDRNN_WERROR=ON SKBUILD_BUILD_DIR=$PWD/build/readme \
    bash -c "${command/#python3/$python}"
}

tests() {
  .venv/bin/python -m pytest -q -p no:cacheprovider -n auto "$@"
}

# What the README's command doesn't bring: torch and the benchmark's other peers, with which the suite
# compares where they are importable, and what stubtest needs.
extras() {
  .venv/bin/pip install -q onnx onnxruntime openvino 'mypy==2.4.1' 'torch==2.13.0'
}

# For style, and for builds that don't each find their tools in a temporary folder of pip's, so that
# the cache knows them.
development() {
  "$python" -m venv "$work/dev"
  "$work/dev/bin/pip" install -q --upgrade pip  # the one that comes with Python 3.11 knows no groups
  "$work/dev/bin/pip" install -q --group style build numpy pybind11 scikit-build-core
}

# The CUDA side on the emulation becomes part of the package in .venv.
emulated_module() {
  [ "$nvcc" ] || { echo "No nvcc: the CUDA side is not checked."; return; }
  target=_cuda build_module emulated
  cp build/emulated/csrc/cuda/_cuda.*.so .venv/lib/python*/site-packages/fusedrnn
}

extra_tests() {
  tests -m '(extras or cuda) and not deep'
}

# The ISAs here but the best one, which all else runs on.
lesser_isas() {
  .venv/bin/python -c "import fusedrnn; print(*fusedrnn.info()['isa_available'][:-1])"
}

# on_isas NAMES ARGUMENT...: tests on each of them.
on_isas() {
  local isa
  for isa in $1; do
    echo "FUSEDRNN_ISA=$isa"
    FUSEDRNN_ISA=$isa tests "${@:2}"
  done
}

style() {
  local bin=$work/dev/bin
  "$bin/ruff" check .
  "$bin/ruff" format --check .
  "$bin/mypy"
  git ls-files '*.h' '*.cpp' '*.inl' '*.cu' | xargs "$bin/clang-format" --dry-run -Werror
  "$bin/sp-repo-review" .
}

# packages MEGABYTES: the sdist, the wheel that is built from it, and the wheel in an empty
# environment. The sdist is unpacked as deep as the checkout, for the cache.
packages() {
  "$work/dev/bin/python" -m build -q --sdist --outdir dist .
  mkdir -p build/sdist
  tar -xf dist/*.tar.gz --strip-components=1 -C build/sdist
  SKBUILD_CMAKE_DEFINE=FUSEDRNN_WERROR=ON SKBUILD_BUILD_DIR=$PWD/build/sdist/build/wheel quietly \
    "$work/dev/bin/pip" wheel --no-deps --no-build-isolation --wheel-dir dist build/sdist
  ls -l dist
  [ -z "$(find dist -size +"$1"M)" ]
  "$python" -m venv "$work/empty"
  "$work/empty/bin/pip" install -q dist/*.whl
  (cd "$work" && "$work/empty/bin/python" "$PWD/checkout/.ci/smoke_test.py")
  "$work/empty/bin/python" -m fusedrnn --help >/dev/null
  "$work/empty/bin/python" -m fusedrnn demo --list
  "$work/empty/bin/python" -m fusedrnn info
}

# ---- C++ -----------------------------------------------------------------------------------------

# build PRESET ARGUMENT...: of CMakePresets.json, for which CMake takes more arguments; all of it, or
# what the variable `target` names.
build() {
  quietly cmake --preset "$1" "${@:2}"
  quietly cmake --build --preset "$1" --target "${target:-all}"
}

# The same with the extension modules, by the tools of `development`.
build_module() {
  build "$1" -DFUSEDRNN_PYTHON=ON -DPython_EXECUTABLE="$work/dev/bin/python" \
    -Dpybind11_DIR="$("$work/dev/bin/python" -m pybind11 --cmakedir)" "${@:2}"
}

# module_of PRESET: makes a copy of the installed package with that build's kernels, and prints its
# folder. (`readme` is the build of the README's command.)
module_of() {
  local folder=$work/module-$1
  rm -rf "$folder"
  mkdir "$folder"
  cp -r .venv/lib/python*/site-packages/fusedrnn "$folder"
  rm -f "$folder"/fusedrnn/_c*.so
  cp "build/$1"/_core.*.so "$folder/fusedrnn"
  echo "$folder"
}

# instructions PRESET: of the kernels that this build has, which are not stripped.
instructions() {
  PYTHONPATH=$(module_of "$1") .venv/bin/python -m bench.instructions
}

# symbols PRESET: no code for one ISA can run in the place of other code.
symbols() {
  "$python" .ci/check_symbols.py --self-test
  find "build/$1" -name 'isa_*.cpp.o' -o -name fusedrnn_tests -type f |
    xargs "$python" .ci/check_symbols.py
}

# cuda_binaries MODULE: what nvcc made of the kernels in it: registers, spills, instructions.
cuda_binaries() {
  "$work/dev/bin/pip" install -q nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
  "$work/dev/bin/python" .ci/check_cuda.py --self-test
  "$work/dev/bin/python" .ci/check_cuda.py --sass "$1"
}

# Each of a few planted errors is found by the kernels' tests; tests/cuda/mutations.py alone plants
# all.
mutations() {
  "$python" tests/cuda/mutations.py "no barrier after the step, in a block" \
    "fragments in the wrong order" "copies are read before they are there"
}

git clone -q "$root" "$work/checkout"
cd "$work/checkout"
