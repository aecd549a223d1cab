#!/usr/bin/env bash
# Latencies of one shard of the gateway that forwards `tools/call echo` to a tool server,
# beside one worker of nginx and one thread of HAProxy that forward the same requests unread,
# and beside the tool server with nothing before it; at half of what the gateway can do with
# so many connections. (bench/peers/run.sh compares what they can do at most.)
#
# With --events it measures something else: how much later the events of a call's stream
# come, from a tool server that says in each when it was sent (examples/relayed_events.rs).
#
# The tool server is another gateway with its built-in tools. It shares cpu 1 with the load;
# what forwards has cpu 0 for itself. Runs alternate.
set -euo pipefail

readonly PROXY_CPU=0 LOAD_CPU=1
readonly UPSTREAM_PORT=18001 GATEWAY_PORT=18002 NGINX_PORT=18003 HAPROXY_PORT=18004
readonly READY_ATTEMPTS=100 # of 0.1 s
readonly UPSTREAM_CONNECTIONS=1024

usage() {
    cat <<'TEXT'
Usage: gateway/benches/against_proxies.sh [options]

  --duration SECONDS     length of one run (default 5)
  --runs N               rounds per number of connections (default 3)
  --connections "LIST"   numbers of connections (default "64 512 5000")
  --events               measure the delay of relayed events instead
  --gateway FILE         a gateway that is built already; otherwise cargo builds it

It needs nginx, haproxy and jq. It ends with 1 if a call failed.
TEXT
}

die() {
    echo "against_proxies: $*" >&2
    exit 1
}

parse_arguments() {
    duration=5 runs=3 connections='64 512 5000' gateway='' events=false
    while (($#)); do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --events) events=true && shift ;;
            --duration | --runs | --connections | --gateway)
                (($# > 1)) || die "$1 needs a value"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            *) die "unknown option $1; see --help" ;;
        esac
    done
    local program
    for program in nginx haproxy jq taskset; do
        command -v "$program" >/dev/null || die "$program is not installed"
    done
    if [[ -z $gateway ]]; then
        cargo build --release --bins
        gateway=target/release/shardgate
    fi
    if $events; then
        cargo build --release -p shardgate --example relayed_events
    else
        cargo build --release -p shardgate-bench
    fi
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
  option http-no-delay
frontend clients
  bind 127.0.0.1:$HAPROXY_PORT
  default_backend tools
backend tools
  server one 127.0.0.1:$UPSTREAM_PORT pool-max-conn 1024 maxconn 1024
CFG
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
    start $PROXY_CPU nginx -c "$work/nginx.conf"
    start $PROXY_CPU haproxy -f "$work/haproxy.cfg" -db
    local port
    for port in $GATEWAY_PORT $NGINX_PORT $HAPROXY_PORT; do
        wait_for_port "$port"
    done
}

# One run of the load tool, whose result goes to a file.
load() {
    local port=$1 count=$2 rate=$3
    taskset -c $LOAD_CPU target/release/shardgate-bench run --cpus $LOAD_CPU \
        --url "http://127.0.0.1:$port/mcp" --revision 2026-07-28 --workload tools_call_1kib \
        --connections "$count" --rate "$rate" --duration "${duration}s" --warmup 1s \
        --fail-if 'errors>0,shed>0' --json "$work/load.json" >"$work/load.log" 2>&1 ||
        die "$(cat "$work/load.log")"
}

# Latencies at a rate, from the planned time of each request.
latencies() {
    local name=$1 port=$2 count=$3 rate=$4
    load "$port" "$count" "$rate"
    jq -r --arg name "$name" --arg count "$count" '
        .latency.corrected as $it | .totals as $all |
        "\($name)\t\($count) connections\t\($all.completed / $all.elapsed_s | floor) requests/s\t" +
        "p50 \($it.p50) us\tp99 \($it.p99) us\tlimit: \(.verdict.limit)"' "$work/load.json"
}

measure_half_load() {
    local count=$1 rate round
    load $GATEWAY_PORT "$count" max
    rate=$(jq '.totals.completed / .totals.elapsed_s / 2 | floor' "$work/load.json")
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
    if $events; then
        start_proxies
        measure_events
        return
    fi
    start_tool_server
    start_proxies
    local count
    for count in $connections; do
        measure_half_load "$count"
    done
}

main "$@"
