#!/usr/bin/env bash
# Compares one shard of the gateway, forwarding `tools/call echo` to a tool server, with one
# worker of nginx and one thread of HAProxy that forward the same requests unread.
#
# The tool server is another gateway with its built-in tools. It shares cpu 1 with the load
# client; what forwards has cpu 0 for itself. Runs alternate. Judge by CPU time per request:
# the load's core is the limit of requests/s.
#
# With --half-load it measures latencies instead, at half of what the gateway can do with so
# many connections, and beside them those of the tool server without anything before it.
#
# With --events it measures something else: how much later the events of a call's stream
# come, from a tool server that says in each when it was sent (examples/relayed_events.rs).
set -euo pipefail

readonly PROXY_CPU=0 LOAD_CPU=1
readonly UPSTREAM_PORT=18001 GATEWAY_PORT=18002 NGINX_PORT=18003 HAPROXY_PORT=18004
readonly READY_ATTEMPTS=100 # of 0.1 s
readonly UPSTREAM_CONNECTIONS=256

usage() {
    cat <<'TEXT'
Usage: gateway/benches/against_proxies.sh [options]

  --duration SECONDS     length of one run (default 5)
  --runs N               rounds per number of connections (default 3)
  --connections "LIST"   numbers of connections (default "64 512 5000")
  --half-load            measure latencies at half load instead
  --events               measure the delay of relayed events instead
  --gateway FILE         a gateway that is built already; otherwise cargo builds it

It needs nginx, haproxy, wrk, curl and, for --half-load, jq. It ends with 1 if an answer was not 2xx.
TEXT
}

die() {
    echo "against_proxies: $*" >&2
    exit 1
}

parse_arguments() {
    duration=5 runs=3 connections='64 512 5000' gateway='' mode=throughput
    while (($#)); do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --events | --half-load) mode=${1#--} && shift ;;
            --duration | --runs | --connections | --gateway)
                (($# > 1)) || die "$1 needs a value"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            *) die "unknown option $1; see --help" ;;
        esac
    done
    local program
    for program in nginx haproxy wrk curl taskset; do
        command -v "$program" >/dev/null || die "$program is not installed"
    done
    if [[ -z $gateway ]]; then
        cargo build --release --bins
        gateway=target/release/shardgate
    fi
    case $mode in
        events) cargo build --release -p shardgate --example relayed_events ;;
        half-load) cargo build --release -p shardgate-bench ;;
    esac
}

write_configurations() {
    cat >"$work/gateway.toml" <<TOML
[[upstream]]
name = "one"
url = "http://127.0.0.1:$UPSTREAM_PORT/mcp"
connections_max = $UPSTREAM_CONNECTIONS
in_flight_max = 8192
TOML
    cat >"$work/nginx.conf" <<CONF
worker_processes 1; worker_cpu_affinity 01; daemon off; pid $work/nginx.pid; error_log $work/nginx.log;
worker_rlimit_nofile 20000;
events { worker_connections 15000; use epoll; multi_accept on; }
http {
  access_log off; keepalive_requests 100000000; keepalive_timeout 300;
  upstream tools { server 127.0.0.1:$UPSTREAM_PORT; keepalive 1024; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:$NGINX_PORT backlog=4096 reuseport;
    location / {
      proxy_pass http://tools; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host 127.0.0.1; proxy_buffering off;
    }
  }
}
CONF
    cat >"$work/haproxy.cfg" <<CFG
global
  nbthread 1
  maxconn 6000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend clients
  bind 127.0.0.1:$HAPROXY_PORT
  default_backend tools
backend tools
  server one 127.0.0.1:$UPSTREAM_PORT pool-max-conn 1024 maxconn 1024
CFG
    cat >"$work/call.lua" <<'LUA'
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"] = "2026-07-28"
wrk.headers["Mcp-Method"] = "tools/call"
wrk.headers["Mcp-Name"] = "echo"
wrk.body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello from the echo tool, sixty-four bytes of payload in this reply"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}'
LUA
}

# Starts a command on a cpu; its pid is in `started`.
start() {
    local cpu=$1
    shift
    taskset -c "$cpu" "$@" >"$work/$(basename "$1").$cpu.log" 2>&1 &
    started=$!
    pids+=("$started")
}

wait_for_port() {
    local port=$1 attempt
    for ((attempt = 0; attempt < READY_ATTEMPTS; attempt++)); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            return
        fi
        sleep 0.1
    done
    die "nothing listens on port $port; see $work"
}

start_tool_server() {
    start $LOAD_CPU "$gateway" serve --listen 127.0.0.1:$UPSTREAM_PORT --admin 127.0.0.1:0 --shards 1 --log json
    wait_for_port $UPSTREAM_PORT
}

start_proxies() {
    start $PROXY_CPU "$gateway" serve --config "$work/gateway.toml" --listen 127.0.0.1:$GATEWAY_PORT --admin 127.0.0.1:0 --shards 1 --log json
    gateway_pid=$started
    start $PROXY_CPU nginx -c "$work/nginx.conf"
    local nginx_main=$started
    start $PROXY_CPU haproxy -f "$work/haproxy.cfg" -db
    haproxy_pid=$started
    local port
    for port in $GATEWAY_PORT $NGINX_PORT $HAPROXY_PORT; do
        wait_for_port "$port"
    done
    nginx_pid=$(pgrep -P "$nginx_main" | head -n 1)
}

# User and system time of a process so far, in clock ticks.
ticks() {
    awk '{ print $14 + $15 }' "/proc/$1/stat"
}

run_one() {
    local name=$1 port=$2 pid=$3 count=$4 before after output
    before=$(ticks "$pid")
    output=$(taskset -c $LOAD_CPU wrk -t1 -c"$count" -d"${duration}s" --timeout 10s -s "$work/call.lua" "http://127.0.0.1:$port/mcp")
    after=$(ticks "$pid")
    if grep -q 'Non-2xx' <<<"$output"; then
        die "$name gave answers that are not 2xx: $(grep 'Non-2xx' <<<"$output")"
    fi
    awk -v name="$name" -v count="$count" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" '
        /requests in/ { requests = $1 }
        /Requests\/sec/ { rate = $2 }
        END { printf "%-10s %5d connections  %8.0f requests/s  %6.2f us CPU/request\n", name, count, rate, ticks / hz * 1e6 / requests }
    ' <<<"$output"
}

# Latencies at a rate, from the planned time of each request.
latencies() {
    local name=$1 port=$2 count=$3 rate=$4
    taskset -c $LOAD_CPU target/release/shardgate-bench run --cpus $LOAD_CPU \
        --url "http://127.0.0.1:$port/mcp" --revision 2026-07-28 --workload tools_call_1kib \
        --connections "$count" --rate "$rate" --duration "${duration}s" --warmup 1s \
        --json "$work/latencies.json" >"$work/latencies.log" 2>&1 || die "$(cat "$work/latencies.log")"
    jq -r --arg name "$name" --arg count "$count" '
        .latency.corrected as $it | .totals as $all |
        "\($name) \($count) connections  \($all.completed / $all.elapsed_s | floor) requests/s  " +
        "p50 \($it.p50) us  p99 \($it.p99) us  \(.verdict.limit)"' "$work/latencies.json"
}

measure_half_load() {
    local count=$1 rate round
    rate=$(taskset -c $LOAD_CPU wrk -t1 -c"$count" -d"${duration}s" --timeout 10s -s "$work/call.lua" \
        "http://127.0.0.1:$GATEWAY_PORT/mcp" | awk '/Requests\/sec/ { print int($2 / 2) }')
    for ((round = 0; round < runs; round++)); do
        latencies direct $UPSTREAM_PORT "$count" "$rate"
        latencies shardgate $GATEWAY_PORT "$count" "$rate"
        latencies nginx $NGINX_PORT "$count" "$rate"
        latencies haproxy $HAPROXY_PORT "$count" "$rate"
    done
}

measure_events() {
    # It waits by itself until a call comes through each way.
    taskset -c $LOAD_CPU target/release/examples/relayed_events --runs "$runs" \
        --listen 127.0.0.1:$UPSTREAM_PORT --via shardgate=127.0.0.1:$GATEWAY_PORT \
        --via nginx=127.0.0.1:$NGINX_PORT --via haproxy=127.0.0.1:$HAPROXY_PORT
}

main() {
    parse_arguments "$@"
    work=$(mktemp -d)
    pids=()
    trap 'kill "${pids[@]}" 2>/dev/null; wait; rm -rf "$work"' EXIT
    write_configurations
    if [[ $mode == events ]]; then
        start_proxies
        measure_events
        return
    fi
    start_tool_server
    start_proxies
    local count round
    for count in $connections; do
        if [[ $mode == half-load ]]; then
            measure_half_load "$count"
            continue
        fi
        for ((round = 0; round < runs; round++)); do
            run_one shardgate $GATEWAY_PORT "$gateway_pid" "$count"
            run_one nginx $NGINX_PORT "$nginx_pid" "$count"
            run_one haproxy $HAPROXY_PORT "$haproxy_pid" "$count"
        done
    done
}

main "$@"
