#!/usr/bin/env bash
# Compares one shard of the gateway, answering `tools/call echo` of a session, with one worker
# of nginx that gives the same bytes as a fixed reply to the same request.
#
# Both servers are pinned to cpu 0, the load client to cpu 1. Runs alternate, and who goes
# first changes every round, so that a slow minute of the machine meets both. Judge by the
# ratios, and by CPU time per request where a server was not busy for the whole run: then
# the client was the limit.
set -euo pipefail

readonly SERVER_CPU=0 CLIENT_CPU=1
readonly READY_ATTEMPTS=100 # of 0.1 s
readonly WARM_UP_SECONDS=1
readonly MESSAGE='hello from the echo tool, sixty-four bytes of payload in this reply'
readonly CALL='{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"'$MESSAGE'"}}}'
readonly INITIALIZE='{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"against_nginx","version":"1"}}}'

usage() {
    cat <<'TEXT'
Usage: gateway/benches/against_nginx.sh [options]

  --duration SECONDS     length of one run (default 5)
  --runs N               rounds per number of connections (default 3)
  --connections "LIST"   numbers of connections (default "64 512 5000")
  --client NAME          wrk (default), or closed_loop, which needs less of its core
  --pipeline N           requests under way per connection, closed_loop only (default 1)
  --gateway FILE         a gateway that is built already; otherwise cargo builds it
  --json FILE            appends a line for the machine, each run and each comparison

It ends with 1 if any answer was not 2xx or any connection failed.
TEXT
}

die() {
    echo "against_nginx: $*" >&2
    exit 1
}

parse_arguments() {
    duration=5 runs=3 connections='64 512 5000' client=wrk pipeline=1 gateway='' json=/dev/null
    while (($#)); do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --duration | --runs | --connections | --client | --pipeline | --gateway | --json)
                (($# > 1)) || die "$1 needs a value"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            *) die "unknown option $1; see --help" ;;
        esac
    done
    [[ $client == wrk || $client == closed_loop ]] || die "--client is wrk or closed_loop, not $client"
    [[ $client == closed_loop || $pipeline == 1 ]] || die '--pipeline needs --client closed_loop'
    local number
    for number in "$duration" "$runs" "$pipeline" $connections; do
        [[ $number =~ ^[1-9][0-9]*$ ]] || die "$number is not a whole number above 0"
    done
}

# Installs what is missing where that is possible, otherwise says how.
provide_tools() {
    local package missing=()
    PATH+=:/usr/sbin
    command -v nginx >/dev/null || missing+=(nginx-light)
    command -v curl >/dev/null || missing+=(curl)
    [[ $client != wrk ]] || command -v wrk >/dev/null || missing+=(wrk)
    for package in taskset:util-linux pgrep:procps; do
        command -v "${package%:*}" >/dev/null || missing+=("${package#*:}")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        die "missing: ${missing[*]} (names of Debian packages). Install them and come back."
    fi
    echo "installing from Debian: ${missing[*]}" >&2
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >&2
}

build() {
    cd "$(dirname "${BASH_SOURCE[0]}")/../.."
    local target_dir=${CARGO_TARGET_DIR:-target}
    if [[ -z $gateway ]]; then
        cargo build --release --package shardgate --bin shardgate
        gateway=$target_dir/release/shardgate
    fi
    [[ -x $gateway ]] || die "$gateway is no program"
    if [[ $client == closed_loop ]]; then
        cargo build --release --package shardgate --example closed_loop
        closed_loop=$target_dir/release/examples/closed_loop
    fi
}

pids=()
clean_up() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait
    [[ -z ${scratch:-} ]] || rm -rf "$scratch"
}

start_gateway() {
    : >"$scratch/gateway.log" # there before the gateway is, for sed below
    taskset -c $SERVER_CPU "$gateway" serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 --shards 1 \
        --log json 2>"$scratch/gateway.log" &
    gateway_pid=$!
    pids+=("$gateway_pid")
    gateway_address=''
    for ((attempt = 0; attempt < READY_ATTEMPTS; attempt++)); do
        gateway_address=$(sed -n 's/.*"event":"ready","listen":"\([^"]*\)".*/\1/p' "$scratch/gateway.log")
        [[ -z $gateway_address ]] || return 0
        kill -0 "$gateway_pid" 2>/dev/null || break
        sleep 0.1
    done
    die "the gateway did not get ready: $(<"$scratch/gateway.log")"
}

post() { # address body headers…
    local address=$1 body=$2
    shift 2
    curl --silent --show-error --fail "http://$address/mcp" --data-binary "$body" \
        -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' "$@"
}

open_session() {
    post "$gateway_address" "$INITIALIZE" --dump-header "$scratch/head" --output /dev/null
    session=$(tr -d '\r' <"$scratch/head" | sed -n 's/^mcp-session-id: //Ip')
    [[ -n $session ]] || die 'initialize: the gateway gave no Mcp-Session-Id'
    in_session=(-H "Mcp-Session-Id: $session" -H 'MCP-Protocol-Version: 2025-11-25')
    post "$gateway_address" '{"jsonrpc":"2.0","method":"notifications/initialized"}' "${in_session[@]}"
    reply=$(post "$gateway_address" "$CALL" "${in_session[@]}")
    [[ $reply == *"$MESSAGE"* && $reply != *\'* ]] || die "echo answered: $reply"
}

free_port() {
    local port
    for ((attempt = 0; attempt < READY_ATTEMPTS; attempt++)); do
        # Below the ports that the kernel gives to outgoing connections.
        port=$((20000 + RANDOM % 10000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die 'no free port found'
}

# nginx as it is usually tuned for this: no log, no limit of requests per connection.
start_nginx() {
    nginx_address=127.0.0.1:$(free_port)
    cat >"$scratch/nginx.conf" <<CONF
worker_processes 1; daemon off; pid $scratch/nginx.pid; error_log $scratch/nginx.log;
worker_rlimit_nofile $(ulimit -Hn);
events { worker_connections 15000; use epoll; multi_accept on; }
http {
    access_log off; keepalive_requests 1000000000; keepalive_timeout 300;
    client_body_temp_path $scratch/body; proxy_temp_path $scratch/proxy;
    fastcgi_temp_path $scratch/fastcgi; uwsgi_temp_path $scratch/uwsgi; scgi_temp_path $scratch/scgi;
    server {
        listen $nginx_address backlog=4096 reuseport;
        location /mcp { default_type application/json; return 200 '$reply'; }
    }
}
CONF
    taskset -c $SERVER_CPU nginx -e "$scratch/nginx.log" -c "$scratch/nginx.conf" &
    local master=$!
    pids+=("$master")
    for ((attempt = 0; attempt < READY_ATTEMPTS; attempt++)); do
        if nginx_pid=$(pgrep -P "$master") &&
            [[ $(post "$nginx_address" "$CALL" "${in_session[@]}" 2>/dev/null) == "$reply" ]]; then
            return
        fi
        sleep 0.1
    done
    die "nginx did not get ready: $(<"$scratch/nginx.log")"
}

write_wrk_request() {
    cat >"$scratch/request.lua" <<LUA
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["Mcp-Session-Id"] = "$session"
wrk.headers["MCP-Protocol-Version"] = "2025-11-25"
wrk.body = '$CALL'
LUA
}

# user + system time in ticks: fields 14 and 15 of proc(5) stat, counted behind the name.
cpu_ticks() {
    sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# Both clients leave: requests requests/s p99_us non_2xx socket_errors
load_wrk() { # address connections seconds
    taskset -c $CLIENT_CPU wrk -t1 -c"$2" -d"$3s" --latency -s "$scratch/request.lua" "http://$1/mcp" |
        awk '
            function us(text) { return text * (text ~ /us$/ ? 1 : text ~ /ms$/ ? 1e3 : text ~ /m$/ ? 6e7 : 1e6) }
            / requests in /  { requests = $1 }
            /Requests\/sec/  { rate = $2 }
            $1 == "99%"      { p99 = us($2) }
            /Non-2xx/        { non_2xx = $NF }
            /Socket errors/  { gsub(",", ""); errors = $4 + $6 + $8 + $10 }
            END { print requests + 0, int(rate + 0.5), int(p99 + 0.5), non_2xx + 0, errors + 0 }'
}

load_closed_loop() { # address connections seconds
    local out
    # It ends with 1 after failed requests, which are judged later.
    out=$(taskset -c $CLIENT_CPU "$closed_loop" --address "$1" --connections "$2" --seconds "$3" \
        --pipeline "$pipeline" --session "$session") || [[ -n $out ]] || die 'closed_loop did not run'
    field() { sed "s/.*\"$1\":\([0-9]*\).*/\1/" <<<"$out"; }
    echo "$(field requests) $(field requests_per_second) $(field p99_us) $(field non_2xx) $(field connections_closed)"
}

measure() { # server round connections
    local address=${1}_address pid=${1}_pid before after started ended
    before=$(cpu_ticks "${!pid}") started=$EPOCHREALTIME
    read -r requests rate p99 non_2xx errors <<<"$("load_$client" "${!address}" "$3" "$duration")"
    after=$(cpu_ticks "${!pid}") ended=$EPOCHREALTIME
    ((${requests:-0} > 0)) || die "$1 answered nothing at $3 connections"
    awk -v server="$1" -v round="$2" -v connections="$3" -v requests="$requests" -v rate="$rate" \
        -v p99="$p99" -v non_2xx="$non_2xx" -v errors="$errors" -v ticks=$((after - before)) \
        -v hertz="$(getconf CLK_TCK)" -v started="$started" -v ended="$ended" 'BEGIN {
            cpu = ticks / hertz
            printf "{\"run\":%d,\"server\":\"%s\",\"connections\":%d,\"requests\":%d,\"requests_per_second\":%d,\"p99_us\":%d,\"cpu_us_per_request\":%.3f,\"busy\":%.2f,\"non_2xx\":%d,\"socket_errors\":%d}\n", \
                round, server, connections, requests, rate, p99, cpu * 1e6 / requests, cpu / (ended - started), non_2xx, errors
        }' | tee -a "$scratch/runs" "$json" >"$scratch/run"
    awk -F'[:,}]' '{ gsub("\"", ""); printf "run %d  %-8s %5d connections  %7d requests/s  p99 %7d us  %6.2f us cpu per request  busy %3d%%  non-2xx %d  socket errors %d\n", \
        $2, $4, $6, $10, $12, $14, $16 * 100, $18, $20 }' "$scratch/run" >&2
}

describe_machine() {
    local model commit
    model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
    printf '{"cpu":"%s","cpus":%d,"kernel":"%s","nginx":"%s","client":"%s","pipeline":%d,"duration_s":%d,"commit":"%s","load_average":%s}\n' \
        "$model" "$(nproc --all)" "$(uname -r)" "$(nginx -v 2>&1 | sed 's/.*nginx\///')" "$client" \
        "$pipeline" "$duration" "$commit" "$(cut -d' ' -f1 /proc/loadavg)" | tee -a "$json" >&2
    awk '$1 > 0.5 { print "warning: other work runs on this machine (load average " $1 "); the figures will be noise" }' \
        /proc/loadavg >&2
}

# Medians per server, and the median of the ratios within each round.
summarise() {
    awk -F'[:,}]' -v json="$json" '
        function median(values, count,   i, j, swap) {
            for (i = 1; i <= count; i++) for (j = i; j > 1 && values[j - 1] > values[j]; j--) {
                swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap
            }
            return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
        }
        function of(server, connections, column,   i, values) {
            for (i = 1; i <= rounds; i++) values[i] = cell[i, server, connections, column]
            return median(values, rounds)
        }
        function ratio(connections, column,   i, values) {
            for (i = 1; i <= rounds; i++)
                values[i] = cell[i, "gateway", connections, column] / cell[i, "nginx", connections, column]
            return median(values, rounds)
        }
        {
            gsub("\"", "")
            if (!($6 in seen)) { seen[$6] = 1; order[++sizes] = $6 }
            if ($2 > rounds) rounds = $2
            cell[$2, $4, $6, "rate"] = $10; cell[$2, $4, $6, "p99"] = $12
            cell[$2, $4, $6, "cpu"] = $14; cell[$2, $4, $6, "busy"] = $16 * 100
        }
        END {
            print "| connections | nginx requests/s | shardgate requests/s | ratio | nginx CPU/request | shardgate CPU/request | nginx ÷ shardgate | nginx p99 | shardgate p99 | busy nginx, shardgate |"
            print "|---|---|---|---|---|---|---|---|---|---|"
            for (i = 1; i <= sizes; i++) {
                c = order[i]; rates = ratio(c, "rate"); cpus = 1 / ratio(c, "cpu")
                printf "| %d | %d | %d | **%.2f** | %.2f µs | %.2f µs | **%.2f** | %.1f ms | %.1f ms | %d %%, %d %% |\n", c, \
                    of("nginx", c, "rate"), of("gateway", c, "rate"), rates, of("nginx", c, "cpu"), of("gateway", c, "cpu"), cpus, \
                    of("nginx", c, "p99") / 1000, of("gateway", c, "p99") / 1000, of("nginx", c, "busy"), of("gateway", c, "busy")
                printf "{\"connections\":%d,\"rounds\":%d,\"ratio_requests_per_second\":%.3f,\"ratio_requests_per_cpu_second\":%.3f}\n", c, rounds, rates, cpus >> json
            }
        }' "$scratch/runs"
}

check_answers() {
    local bad
    bad=$(grep -cv '"non_2xx":0,"socket_errors":0}' "$scratch/runs") || return 0
    die "$bad runs had answers other than 2xx or failed connections; see the runs above"
}

main() {
    parse_arguments "$@"
    (($(nproc) >= 2)) || die 'needs two cpus: one for the server, one for the client'
    provide_tools
    build
    scratch=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    start_gateway
    open_session
    start_nginx
    write_wrk_request
    describe_machine
    local round size server
    for server in nginx gateway; do
        local address=${server}_address
        "load_$client" "${!address}" 64 $WARM_UP_SECONDS >/dev/null
    done
    for ((round = 1; round <= runs; round++)); do
        for size in $connections; do
            local servers=(nginx gateway)
            ((round % 2)) || servers=(gateway nginx)
            for server in "${servers[@]}"; do measure "$server" "$round" "$size"; done
        done
    done
    summarise
    check_answers
}

main "$@"
