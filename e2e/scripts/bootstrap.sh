#!/bin/bash
# bootstrap.sh [demo|test|bench]: makes a bare Debian 12 able to build and run this repository, then builds it.
# Installs what is missing and nothing else; a second run says so in one line. What takes long and is
# not ours (guest kernel, cargo tools) is kept in ${XDG_CACHE_HOME:-~/.cache}/dmvpn.
set -euo pipefail
goal=${1:-demo}
case $goal in demo | test | bench) ;; *) echo "usage: bootstrap.sh [demo|test|bench]" >&2; exit 2 ;; esac
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dmvpn
export PATH=$PATH:$cache/tools/bin:/usr/sbin:/sbin
start=$SECONDS
did=0

say() { echo "bootstrap: $*" >&2; }
die() { say "$*"; exit 1; }
# Says what starts now and how long it takes; the caller does it.
step() { did=1; say "$*"; }

have_package() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q '^install ok installed'; }

# need PROGRAM PACKAGE: notes the package when the program (or file) is not there.
missing=()
need() {
    case $1 in /*) [ -e "$1" ] && return ;; *) command -v "$1" >/dev/null && return ;; esac
    missing+=("$2")
}

apt_install() {
    [ $# -gt 0 ] || return 0
    [ -e /etc/debian_version ] && command -v apt-get >/dev/null ||
        die "missing, please install (this is not Debian): $*"
    [ "$(id -u)" = 0 ] || die "missing, please install as root: apt-get install $*"
    step "installing from Debian: $* (about a minute)"
    # A package's daemon (frr) must not start here: the lab runs its own copies in namespaces.
    local policy=/usr/sbin/policy-rc.d ours=0 log
    log=$(mktemp)
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        ours=1
    fi
    local status=0
    export DEBIAN_FRONTEND=noninteractive
    { apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null ||
        { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; } ||
        status=$?
    if [ $ours = 1 ]; then rm -f $policy; fi
    [ $status = 0 ] || { tail -n 15 "$log" >&2; die "apt-get failed, its log is $log"; }
    rm -f "$log"
}

# counted LABEL TOTAL COMMAND…: runs cargo; on a terminal cargo draws its own bar, elsewhere one line
# every 10 s says how many crates of about TOTAL are compiled and how long the rest may take.
counted() {
    local label=$1 total=$2 log pid n=0 t0=$SECONDS spent last=0 left status=0
    shift 2
    if [ -t 2 ]; then "$@"; return; fi
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        sleep 0.2
        spent=$((SECONDS - t0))
        [ $((spent - last)) -ge 10 ] || continue
        last=$spent
        n=$(grep -c '^ *Compiling ' "$log" || true)
        # Until enough is counted: a crate takes about a second and a half of CPU.
        left=$((total * 3 / 2 / $(nproc)))
        [ "$n" -gt 20 ] && left=$(((total - n) * spent / n)) && [ "$left" -lt 1 ] && left=1
        echo "  $label: $n of about $total crates, $spent s, about $left s left" >&2
    done
    wait $pid || status=$?
    if [ $status != 0 ]; then grep -vE '^ *(Compiling|Downloaded|Downloading) ' "$log" >&2 || true; fi
    if grep -q '^ *Compiling ' "$log"; then did=1; fi
    rm -f "$log"
    return $status
}

# cargo_tool NAME VERSION CRATES: a cargo subcommand that no package brings.
cargo_tool() {
    command -v "$1" >/dev/null && return
    step "installing $1 $2 with cargo (3 to 8 minutes)"
    # They run for seconds: what they gain from full optimisation is less than it costs to build them so.
    CARGO_TARGET_DIR=$cache/tools/build CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 counted "$1" "$3" \
        nice cargo install --locked --root "$cache/tools" "$1" --version "$2" ||
        die "cargo install $1 failed"
    rm -rf "$cache/tools/build"
}

mkdir -p "$cache"
exec 9>"$cache/bootstrap.lock"
flock -n 9 || { say "another run is setting up, waiting for it"; flock 9; }

# 1. programs
need ip iproute2
need nft nftables
need ping iputils-ping
need tcpdump tcpdump
need iperf3 iperf3
need taskset util-linux
need gcc gcc
need make make
need /usr/lib/frr/nhrpd frr
need /usr/sbin/charon-systemd charon-systemd
need /usr/lib/ipsec/plugins/libstrongswan-openssl.so libstrongswan-standard-plugins
# Nodes and their images
need containerd containerd
need runc runc
need /usr/lib/cni/bridge containernetworking-plugins
need strip binutils
need /usr/include/stdio.h libc6-dev
apt_install "${missing[@]}"
command -v cargo >/dev/null || die "cargo is missing: install Rust 1.89 or later (https://rustup.rs)"
if [ "$goal" = test ]; then
    sysroot=$(rustc --print sysroot)
    for component in clippy rustfmt; do
        case $component in clippy) file=cargo-clippy ;; *) file=rustfmt ;; esac
        [ -e "$sysroot/bin/$file" ] && continue
        command -v rustup >/dev/null || die "$file is missing and there is no rustup to add it with"
        step "adding $component to the Rust toolchain (a few seconds)"
        rustup component add $component >&2
    done
fi

# 2. a kernel with GRE and ESP
if [ "$("$here/guest-kernel.sh" engine)" = guest ] && ! "$here/guest-kernel.sh" path >/dev/null; then
    step "the running kernel has no GRE or ESP (or this is not root): building the guest kernel once" \
        "(5 to 10 minutes on 2 CPUs)"
    packages=()
    for p in linux-source-6.1 patch flex bison bc libelf-dev libssl-dev xz-utils; do
        have_package $p || packages+=($p)
    done
    apt_install "${packages[@]}"
    "$here/guest-kernel.sh" build 9>&-
fi

# 3. Kubernetes: control plane, kubelet, kubectl, helm
if ! "$here/kubernetes.sh" path >/dev/null; then
    command -v go >/dev/null || die "go is missing: install Go 1.26 or later (https://go.dev/dl)"
    step "building Kubernetes and helm once from Go modules (10 to 15 minutes on 2 CPUs)"
    "$here/kubernetes.sh" build 9>&-
fi

# 4. cargo tools
if [ "$goal" = test ]; then
    cargo_tool cargo-nextest 0.9.151 400
    cargo_tool cargo-deny 0.20.2 330
    # cargo-deny reads the manifests of all crates of the lock file, those of other systems too, and asks nobody.
    cargo fetch --locked --quiet 9>&- || die "cargo fetch failed"
fi

# 5. our own programs; what is measured is optimised
crates=$(($(grep -c '^name = ' Cargo.lock) * 8 / 10))
if [ "$goal" = bench ]; then
    [ -e "${CARGO_TARGET_DIR:-target}/release/dmvpn-agent" ] || step "building optimised programs (about 6 minutes)"
    counted optimised $crates cargo build --release -p node-agent -p operator -p e2e -p nhrp --bins --example registrations \
        9>&- || die "the build failed"
else
    [ -d "${CARGO_TARGET_DIR:-target}/debug/deps" ] ||
        step "building the workspace (about 4 minutes the first time)"
    counted workspace $crates cargo build --workspace --bins --examples 9>&- || die "the build failed"
fi

if [ $did = 1 ]; then say "ready after $((SECONDS - start)) s"; else say "everything is in place"; fi
