// etcd as a program of this module, so that one `go build` makes the whole control plane with one set of versions.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
