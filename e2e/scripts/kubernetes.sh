#!/bin/bash
# The Kubernetes programs that rings 2 and 4 run, built from Go modules of pinned versions.
#   kubernetes.sh path       where they are kept for these modules; status 1 if not built yet
#   kubernetes.sh build      build them there (nothing to do if they exist)
#   kubernetes.sh modules    rewrite e2e/kubernetes/*/go.{mod,sum} for the versions below (needs the module proxy)
# Kept outside the clone, keyed by the modules' content, this script's flags and the architecture.
# KUBEBUILDER_ASSETS=DIR uses the programs of that folder instead, if it holds all of them.
set -euo pipefail
kubernetes=v1.37.2
helm=v4.3.1
here=$(cd "$(dirname "$0")" && pwd)
modules=$here/../kubernetes
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dmvpn
programs=(kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet etcd helm)
# Packages that both builds compile, for the estimate.
packages=3705

die() { echo "kubernetes: $*" >&2; exit 1; }

home() {
    local hash
    if [ -n "${KUBEBUILDER_ASSETS:-}" ] && complete "$KUBEBUILDER_ASSETS"; then
        echo "$KUBEBUILDER_ASSETS"
        return
    fi
    hash=$(cat "$modules"/cluster/go.{mod,sum} "$modules"/cluster/etcd/main.go "$modules"/helm/go.{mod,sum} |
        sha256sum | cut -c1-16)
    echo "$cache/kubernetes/$kubernetes-$hash-$(uname -m)"
}

complete() {
    local p
    for p in "${programs[@]}"; do [ -x "$1/$p" ] || return 1; done
}

# Runs while process $1 lives: `go build -v` names each package that it compiles.
progress() {
    local pid=$1 log=$2 start=$SECONDS n spent left last=0
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        spent=$((SECONDS - start))
        n=$(wc -l <"$log")
        left=$((1200 / $(nproc)))
        [ "$n" -gt 300 ] && left=$(((packages - n) * spent / n)) && [ "$left" -lt 1 ] && left=1
        if [ -t 2 ]; then
            printf '\r  kubernetes: %d of about %d packages, %d s, about %s s left   ' \
                "$n" $packages $spent "$left" >&2
        elif [ $((spent - last)) -ge 10 ]; then
            last=$spent
            echo "  kubernetes: $n of about $packages packages, $spent s, about $left s left" >&2
        fi
    done
    if [ -t 2 ]; then printf '\n' >&2; fi
}

compile() { # OUTDIR
    local out=$1 flags='' p c=k8s.io/kubernetes/cmd
    # A release sets these at link time; without them the server calls itself v0.0.0 and clients refuse it.
    for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $p.gitVersion=$kubernetes -X $p.gitMajor=1 -X $p.gitMinor=$(cut -d. -f2 <<<$kubernetes)"
        flags+=" -X $p.gitTreeState=clean -X $p.gitCommit=0000000000000000000000000000000000000000"
        flags+=" -X $p.buildDate=2026-01-01T00:00:00Z"
    done
    export CGO_ENABLED=0
    # One `go build` a module: its links overlap with compiles. Without DWARF a tenth less CPU, a fifth less cache.
    (cd "$modules/cluster" && nice go build -v -buildvcs=false -trimpath -mod=readonly -gcflags=all=-dwarf=false \
        -ldflags="-s -w $flags" -o "$out/" $c/kube-apiserver $c/kube-controller-manager $c/kube-scheduler \
        $c/kubectl $c/kubelet ./etcd)
    (cd "$modules/helm" && nice go build -v -buildvcs=false -trimpath -mod=readonly -gcflags=all=-dwarf=false \
        -ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=$helm" -o "$out/" helm.sh/helm/v4/cmd/helm)
}

build() {
    local target log pid start=$SECONDS
    target=$(home)
    complete "$target" && return 0
    command -v go >/dev/null || die "go is missing (1.26 or later): https://go.dev/dl"
    mkdir -p "$cache/kubernetes"
    exec 8>"$cache/kubernetes/lock"
    flock -n 8 || { echo "kubernetes: another run is building it, waiting" >&2; flock 8; }
    complete "$target" && return 0
    # Only the holder of the lock makes such folders: what is here was left by a run that was killed.
    rm -rf "$cache"/kubernetes/tmp.*
    tmp=$(mktemp -d "$cache/kubernetes/tmp.XXXXXX")
    # Not local: the trap runs when this function is over.
    trap 'rm -rf "${tmp:-}"' EXIT
    mkdir "$tmp/out"
    log=$tmp/log
    : >"$log"
    echo "kubernetes: compiling $kubernetes and helm $helm from Go modules (about 1200 CPU seconds, 6 GB of Go's cache)" >&2
    compile "$tmp/out" >>"$log" 2>&1 </dev/null &
    pid=$!
    progress $pid "$log"
    wait $pid || { grep -v '^[a-zA-Z0-9._/-]*$' "$log" | tail -n 20 >&2; die "the build failed"; }
    rm -rf "$target"
    mv "$tmp/out" "$target"
    echo "kubernetes: built in $((SECONDS - start)) s: $target" >&2
}

# The release's own third-party versions; its module zip has no staging folders, so those become real versions.
write_modules() {
    local staging=v0.${kubernetes#v1.} dir c=k8s.io/kubernetes/cmd
    dir=$(cd / && go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')
    cd "$modules/cluster"
    {
        printf '// Made by e2e/scripts/kubernetes.sh modules.\nmodule cluster\n\nrequire k8s.io/kubernetes %s\n' $kubernetes
        sed -e '/^module /d' -e '/^\/\//d' \
            -e "s#\(k8s.io/[a-z0-9-]*\) => ./staging/src/\(k8s.io/[a-z0-9-]*\)#\1 => \2 $staging#" "$dir/go.mod"
    } >go.mod
    install -m 644 "$dir/go.sum" go.sum
    # The release's go.sum lacks Kubernetes itself and what came from the staging folders.
    CGO_ENABLED=0 go list -mod=mod -deps ./etcd $c/{kube-apiserver,kube-controller-manager,kube-scheduler,kubectl,kubelet} >/dev/null
    cd "$modules/helm"
    rm -f go.mod go.sum
    go mod init helm
    go get -tool helm.sh/helm/v4/cmd/helm@$helm
}

case ${1:-} in
path) p=$(home); echo "$p"; complete "$p" ;;
build) build ;;
modules) write_modules ;;
*) sed -n '2,7s/^# \?//p' "$0" >&2; exit 2 ;;
esac
