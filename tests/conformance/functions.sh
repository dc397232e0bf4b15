# shellcheck shell=bash
# Pairs of programs over urxe on this host, and what becomes of them. Sourced by run.sh.
passed=0 failed=0 skipped=0
verbose=${verbose-} faults='' capture='' user=() path=udp tries=1

# verdict NAME CODE FILE: one line; what FILE holds when CODE is not 0.
verdict() {
  if [ "$2" -eq 0 ]; then
    passed=$((passed + 1))
    printf 'PASS %s\n' "$1"
    [ -z "$verbose" ] || sed 's/^/       /' "$3"
  else
    failed=$((failed + 1))
    printf 'FAIL %s\n' "$1"
    tail -n 25 "$3" | sed 's/^/       /'
  fi
}
# check NAME FUNCTION FILE: FUNCTION may have arguments of its own behind its name.
check() {
  # shellcheck disable=SC2086  # split on purpose
  $2
  verdict "$1" $? "$3"
}
skip() {
  skipped=$((skipped + 1))
  printf 'SKIP %s: %s\n' "$1" "$2"
}

# conformance_begin LIBRARY: a folder for what programs write, that any user may read.
conformance_begin() {
  local program
  for program in ibv_devinfo ibv_rc_pingpong ib_write_bw setpriv python3; do
    command -v $program >/dev/null || {
      echo "tests/conformance: SKIPPED: no $program; install the packages of tests/packages.txt" >&2
      exit 77
    }
  done
  folder=$(mktemp -d /tmp/urxe-conformance.XXXXXX)
  trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$folder"' EXIT
  trap 'exit 143' TERM HUP
  trap 'exit 130' INT
  chmod 755 "$folder"
  mkdir "$folder/counters"
  cp "$1" "$folder/liburxe.so"
  # shellcheck disable=SC2034  # for programs that need no partner
  alone=(env LD_PRELOAD="$folder/liburxe.so")
  port=$((20000 + $$ % 8000))
  # shellcheck disable=SC2034  # run.sh goes through them
  paths='udp'
  # The same-host path, where this machine permits it to two processes of one user.
  if pair_runs local 10 ibv_rc_pingpong -d urxe0 -g 0 -n 10 >/dev/null 2>&1; then
    # shellcheck disable=SC2034
    paths='local udp'
  else
    skip 'the same-host path' "two processes may not copy here; gradwire doctor says why: $(grep -h -m 1 'urxe:' "$folder"/*.log 2>/dev/null)"
  fi
}
conformance_end() {
  echo "$passed passed, $failed failed$([ $skipped -eq 0 ] || echo ", $skipped skipped")"
  [ $failed -eq 0 ] && [ $passed -gt 0 ]
  exit
}

gids() {
  "${alone[@]}" ibv_devinfo -v -d urxe0 2>/dev/null | grep -c 'GID\['
}

# listens PORT SECONDS PID: waits until somebody listens there; 1 when PID ends before.
listens() {
  local hex end=$((SECONDS + $2))
  hex=$(printf ':%04X 0' "$1")
  until grep -q "$hex.*:0000 0A" /proc/net/tcp /proc/net/tcp6 2>/dev/null; do
    kill -0 "$3" 2>/dev/null && [ $SECONDS -lt $end ] || return 1
    sleep 0.02
  done
}

# start LOG SECONDS PROGRAM...: in the background, over urxe; its process id is $started.
start() {
  local log=$1 limit=$2
  shift 2
  "${user[@]}" timeout -k 2 "$limit" env LD_PRELOAD="$folder/liburxe.so" URXE_PATH="$path" \
    URXE_FAULTS="$faults" URXE_PCAP="$capture" URXE_COUNTERS="$folder/counters/%p" "$@" >"$log" 2>&1 &
  started=$!
}

# counted NAME FILE...: the sum of a counter over what processes left behind.
counted() {
  local name=$1
  shift
  awk -v name="$name" '{ for (i = 1; i < NF; i++) if ($i == name) sum += $(i + 1) } END { printf "%d\n", sum }' "$@" /dev/null
}

# pair_runs PATH SECONDS PROGRAM FLAG...: a server and a client of PROGRAM; 0 when both end well and
# the bytes went the way they were to go.
pair_runs() {
  path=$1
  local limit=$2 server server_code client_code
  shift 2
  port=$((port + 1))
  rm -f "$folder"/counters/*
  start "$folder/server.log" "$limit" "$@" -p $port
  server=$started
  listens $port 10 $server || { echo "the server does not listen"; }
  start "$folder/client.log" "$limit" "$@" -p $port 127.0.0.1
  wait "$started"
  client_code=$?
  wait $server
  server_code=$?
  cat "$folder/server.log" "$folder/client.log"
  echo "server's code $server_code, client's $client_code"
  # timeout's own code is 124.
  [ $server_code -eq 0 ] && [ $client_code -eq 0 ] || return 1
  local sent local_operations
  sent=$(counted packets_sent "$folder"/counters/*)
  local_operations=$(counted local_operations "$folder"/counters/*)
  echo "$path: $sent packets, $local_operations operations by the same-host path"
  if [ "$path" = udp ]; then
    [ "$sent" -gt 0 ] && [ "$local_operations" -eq 0 ] || return 1
  else
    [ "$local_operations" -gt 0 ] || return 1
  fi
  [ -n "$faults" ] || [ "$(counted icrc_errors "$folder"/counters/*)" -eq 0 ]
}

# pair NAME PATH SECONDS PROGRAM FLAG...: that, as a check, tried up to $tries times.
pair() {
  local name=$1 try code
  shift
  for try in $(seq "$tries"); do
    pair_runs "$@" >"$folder/pair" 2>&1
    code=$?
    [ $code -ne 0 ] || break
  done
  [ "$try" -eq 1 ] || name+=" (at try $try)"
  verdict "$name, ${1}${faults:+, $faults}" $code "$folder/pair"
}

# crowd PAIRS SECONDS none|server|client: pairs of ib_write_bw for so many seconds; after half of them
# one server or client is killed, whose partner must then end by itself with an error, and the others
# must go on to a good end.
crowd() {
  local pairs=$1 seconds=$2 victim=$3 i code result=0
  local servers=() clients=()
  rm -f "$folder"/counters/*
  for i in $(seq "$pairs"); do
    port=$((port + 1))
    start "$folder/crowd.server.$i" $((seconds + 30)) ib_write_bw -d urxe0 -x 0 -F -s 65536 -D "$seconds" -p $port
    servers+=("$started")
    listens $port 10 "$started" || echo "server $i does not listen"
    start "$folder/crowd.client.$i" $((seconds + 30)) ib_write_bw -d urxe0 -x 0 -F -s 65536 -D "$seconds" -p $port 127.0.0.1
    clients+=("$started")
  done >"$folder/crowd" 2>&1
  sleep $((seconds / 2))
  case $victim in
    server) kill_child "${servers[1]}" ;;
    client) kill_child "${clients[1]}" ;;
  esac
  for i in $(seq 0 $((pairs - 1))); do
    for one in servers clients; do
      local -n list=$one
      wait "${list[$i]}"
      code=$?
      if [ "$victim" != none ] && [ "$i" -eq 1 ]; then
        # 124: it was still there at the deadline.
        [ $code -ne 0 ] && [ $code -ne 124 ] || { echo "$one ${i}: code $code though its partner was killed"; result=1; }
      elif [ $code -ne 0 ]; then
        echo "$one ${i}: code $code"
        cat "$folder/crowd.${one%s}.$((i + 1))"
        result=1
      fi
    done
  done >>"$folder/crowd" 2>&1
  return $result
}
# kill_child PID: the program below `timeout`, as nothing that it could handle.
kill_child() {
  local child
  for child in $(cat "/proc/$1/task/$1/children"); do
    kill -KILL "$child"
  done
}

# garbage: strangers' datagrams of every kind at the port while contents are compared.
garbage() {
  local address server sender code=0
  path=udp
  address=$("${alone[@]}" ibv_devinfo -v -d urxe0 2>/dev/null | sed -n 's/.*GID\[  0\]:[[:space:]]*::ffff:\([0-9.]*\).*/\1/p')
  rm -f "$folder"/counters/*
  port=$((port + 1))
  {
    [ -n "$address" ] || { echo 'urxe0 has no IPv4 address'; return 1; }
    start "$folder/garbage.server" 60 ibv_rc_pingpong -d urxe0 -g 0 -n 20000 -s 8192 -c -p $port
    server=$started
    listens $port 10 "$server" || echo 'the server does not listen'
    timeout 50 python3 "$(dirname "${BASH_SOURCE[0]}")/garbage.py" "$address" &
    sender=$!
    start "$folder/garbage.client" 60 ibv_rc_pingpong -d urxe0 -g 0 -n 20000 -s 8192 -c -p $port 127.0.0.1
    wait "$started" || code=1
    wait $server || code=1
    kill $sender
    wait $sender 2>/dev/null
    cat "$folder/garbage.server" "$folder/garbage.client"
    local dropped
    dropped=$(($(counted malformed "$folder"/counters/*) + $(counted icrc_errors "$folder"/counters/*) + $(counted unknown_queue_pairs "$folder"/counters/*)))
    echo "$dropped of the strangers' packets were counted"
    [ $dropped -gt 0 ] || code=1
    return $code
  } >"$folder/garbage" 2>&1
}
