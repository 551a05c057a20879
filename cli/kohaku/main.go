// SPDX-License-Identifier: Apache-2.0

// Command kohaku joins the containers of several Linux machines into one
// network, with VXLAN tunnels that need no kernel module.
package main

import (
	"os"

	"kohaku/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
