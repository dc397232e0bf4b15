#!/usr/bin/env bash
# Builds Gradwire and runs all its tests: unit and integration tests of the release build, programs of
# others over urxe (tests/conformance), checks over RDMA between virtual machines (tests/lab), then the
# tests of the AddressSanitizer and ThreadSanitizer builds; formatting and shell scripts are checked
# too.
#   tests/run.sh [--quick | --full] [--only release|conformance|lab|asan|tsan] [--no-install]
# Of conformance and lab the shorter sets are run; --full runs all of them, which takes half an hour
# more. --quick leaves the sanitizer builds out. Logs are written to build/logs. The last line is the
# sum of all test runs, "N passed, N failed"; the exit code is 0 only when nothing failed. A test that
# fails beside others, neither hanging nor reported by a sanitizer, runs once more alone; the summary
# names those that passed only then. What this machine cannot run is counted as skipped, with the
# reason.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

usage() {
  sed -n '2,14s/^# \{0,1\}//p' "$0"
}
misuse() {
  echo "tests/run.sh: $1 (see tests/run.sh --help)" >&2
  exit 2
}

parts=(release conformance lab asan tsan)
install=1 quick=--quick
while [ $# -gt 0 ]; do
  case $1 in
    --quick)
      parts=(release conformance lab)
      ;;
    --full) quick='' ;;
    --only)
      case ${2-} in
        release | conformance | lab | asan | tsan) parts=("$2") ;;
        *) misuse "--only takes release, conformance, lab, asan or tsan" ;;
      esac
      shift
      ;;
    --no-install) install=0 ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) misuse "no such option: $1" ;;
  esac
  shift
done

logs=$PWD/build/logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0
summary=()
started=$SECONDS

say() {
  printf '\n== %s\n' "$*"
}
# note NAME VERDICT: one line of the summary.
note() {
  summary+=("$(printf '%-22s %s' "$1" "$2")")
}
# count NAME CODE: a check that is one test.
count() {
  if [ "$2" -eq 0 ]; then
    passed=$((passed + 1))
    note "$1" ok
  else
    failed=$((failed + 1))
    note "$1" FAILED
  fi
}

if [ $install -eq 1 ]; then
  cmake/install-packages.sh cmake/packages.txt tests/packages.txt || exit 1
fi

check_format() {
  local files
  mapfile -t files < <(git ls-files '*.h' '*.cc')
  clang-format --dry-run --Werror "${files[@]}" 2>"$logs/format.log"
  local code=$?
  [ $code -eq 0 ] || grep -m 20 'error:' "$logs/format.log"
  return $code
}
check_scripts() {
  local files
  mapfile -t files < <(git ls-files '*.sh' '.ci/run')
  shellcheck --severity=warning "${files[@]}"
}

# skip NAME WHY: a check that this machine cannot make.
skip() {
  skipped=$((skipped + 1))
  note "$1" "skipped: $2"
}
say 'Formatting and scripts'
if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  skip formatting 'not a git checkout'
  skip 'shell scripts' 'not a git checkout'
else
  # Other releases of clang-format break lines elsewhere, which says nothing about this code.
  if clang-format --version 2>/dev/null | grep -q 'version 14\.'; then
    check_format
    count formatting $?
  else
    skip formatting 'clang-format 14 is not here'
  fi
  if command -v shellcheck >/dev/null 2>&1; then
    check_scripts
    count 'shell scripts' $?
  else
    skip 'shell scripts' 'shellcheck is not here'
  fi
fi

# Reports of a sanitizer end the process with a code of its own, so that no test takes them for an
# error that it expects.
sanitizer_options() {
  # Memory that cannot be had is an error our code answers, not one of the test.
  export ASAN_OPTIONS=detect_leaks=1:exitcode=99:detect_stack_use_after_return=1:allocator_may_return_null=1
  export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:exitcode=99
  export TSAN_OPTIONS=exitcode=99:halt_on_error=0:second_deadlock_stack=1:allocator_may_return_null=1
  export LSAN_OPTIONS=exitcode=99
  [ ! -f tests/asan.supp ] || ASAN_OPTIONS+=:suppressions=$PWD/tests/asan.supp
  [ ! -f tests/lsan.supp ] || LSAN_OPTIONS+=:suppressions=$PWD/tests/lsan.supp
  [ ! -f tests/ubsan.supp ] || UBSAN_OPTIONS+=:suppressions=$PWD/tests/ubsan.supp
  [ ! -f tests/tsan.supp ] || TSAN_OPTIONS+=:suppressions=$PWD/tests/tsan.supp
}

# What a test's output says when it is no matter of load.
grave='(ERROR|WARNING): [A-Za-z]+Sanitizer|runtime error:|\*\*\*(Timeout|Exception)'
# why LOG: what the failed tests of a log said, where the logs may not be at hand.
why() {
  grep -m 40 -A 6 -E '(ERROR|WARNING): [A-Za-z]+Sanitizer|runtime error:|SUMMARY: |: Failure$|^\[  FAILED  \]|^(FAIL|ERROR): |(Error|Failed|Exception): ' "$1" |
    head -n 200
}

# run_build NAME: configures, builds and tests one preset.
run_build() {
  local name=$1 begin=$SECONDS options=()
  # Instrumented code makes GCC warn of what is not there; the plain build is the one that judges.
  [ -z "${CI-}" ] || [ "$name" != release ] || options+=(-DGRADWIRE_WERROR=ON)
  say "Build: $name (log in build/logs/$name-build.log)"
  if ! { cmake --preset "$name" "${options[@]}" &&
    cmake --build --preset "$name" --parallel "$(nproc)"; } \
    >"$logs/$name-build.log" 2>&1; then
    grep -m 20 -E 'error|Error' "$logs/$name-build.log"
    count "$name build" 1
    return
  fi
  local built=$((SECONDS - begin))
  say "Tests: $name (log in build/logs/$name-tests.log)"
  sanitizer_options
  # Two at a time: ranks of both share the cores; tests about time run alone.
  ctest --preset "$name" --parallel 2 --timeout 600 --no-tests=error \
    2>&1 | tee "$logs/$name-tests.log" | grep -E --line-buffered '^ *[0-9]+/[0-9]+ .*(Failed|Timeout|Exception|Not Run|\*\*\*)|tests passed'
  # "97% tests passed, 3 tests failed out of 120"
  local line bad all unsteady=0
  line=$(grep -E 'tests passed, [0-9]+ tests failed out of [0-9]+' "$logs/$name-tests.log" | tail -n 1)
  if [ -z "$line" ]; then
    count "$name tests" 1
    return
  fi
  bad=$(sed -E 's/.*passed, ([0-9]+) tests.*/\1/' <<<"$line")
  all=$(sed -E 's/.*out of ([0-9]+).*/\1/' <<<"$line")
  if [ "$bad" -gt 0 ]; then
    why "$logs/$name-tests.log"
    # Somebody else's load on a shared machine can fail a test, but neither makes it hang nor is it
    # reported by a sanitizer: what failed otherwise has one more chance, alone, and is named.
    if [ "$bad" -le 5 ] && ! grep -qE "$grave" "$logs/$name-tests.log"; then
      say "Again, alone: $name (log in build/logs/$name-again.log)"
      if ctest --preset "$name" --rerun-failed --timeout 600 --no-tests=error \
        >"$logs/$name-again.log" 2>&1; then
        unsteady=$bad bad=0
      else
        why "$logs/$name-again.log"
      fi
    fi
  fi
  passed=$((passed + all - bad))
  failed=$((failed + bad))
  [ "$unsteady" -eq 0 ] || note "$name, unsteady" "$unsteady passed only when run again: $(
    grep -oE '^ *[0-9]+/[0-9]+ Test +#[0-9]+: [^ ]+ .*\*\*\*' "$logs/$name-tests.log" |
      sed -E 's/.*: ([^ ]+) .*/\1/' | tr '\n' ' '
  )"
  note "$name" "$((all - bad)) passed, $bad failed (built in ${built} s, tested in $((SECONDS - begin - built)) s)"
}

# The checks between virtual machines, with the programs of the release build.
run_lab() {
  local begin=$SECONDS code line
  say "Lab: virtual machines with Soft-RoCE (log in build/logs/lab.log)"
  if [ ! -x build/release/bin/gradwire ]; then
    count 'lab (no release build)' 1
    return
  fi
  tests/lab/check.sh $quick 2>&1 | tee "$logs/lab.log"
  code=${PIPESTATUS[0]}
  if [ "$code" -eq 77 ]; then
    skip lab "$(grep -m 1 -o 'SKIPPED.*' "$logs/lab.log" || echo 'see build/logs/lab.log')"
    return
  fi
  line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$logs/lab.log" | tail -n 1)
  if [ -z "$line" ]; then
    count lab 1
    return
  fi
  passed=$((passed + ${line%% *}))
  line=${line#*, }
  failed=$((failed + ${line%% *}))
  note lab "$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$logs/lab.log" | tail -n 1) ($((SECONDS - begin)) s)"
}

# Programs that know nothing of urxe, over the release build's liburxe.so.
run_conformance() {
  local begin=$SECONDS code line
  say "Conformance: perftest, pingpongs and rdma-core's tests over urxe (log in build/logs/conformance.log)"
  if [ ! -f build/release/lib/liburxe.so ]; then
    count 'conformance (no release build)' 1
    return
  fi
  tests/conformance/run.sh --no-install $quick 2>&1 | tee "$logs/conformance.log" |
    grep -E --line-buffered '^(FAIL|SKIP|  )|passed, '
  code=${PIPESTATUS[0]}
  if [ "$code" -eq 77 ]; then
    skip conformance "$(grep -m 1 -o 'SKIPPED.*' "$logs/conformance.log" || echo 'see build/logs/conformance.log')"
    return
  fi
  line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$logs/conformance.log" | tail -n 1)
  if [ -z "$line" ]; then
    count conformance 1
    return
  fi
  passed=$((passed + ${line%% *}))
  note conformance "$line ($((SECONDS - begin)) s)"
  [[ ! $line =~ ([0-9]+)\ skipped ]] || skipped=$((skipped + BASH_REMATCH[1]))
  line=${line#*, }
  failed=$((failed + ${line%% *}))
}

# In one group, which the shell reads whole: this file may change while the tests run.
{
  for name in "${parts[@]}"; do
    case $name in
      conformance) run_conformance ;;
      lab) run_lab ;;
      *) run_build "$name" ;;
    esac
  done

  say "Summary after $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
  printf '%s\n' "${summary[@]}"
  echo
  line="$passed passed, $failed failed"
  [ $skipped -eq 0 ] || line+=", $skipped skipped"
  echo "$line"
  [ $failed -eq 0 ]
  exit
}
