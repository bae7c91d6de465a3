// The boxo side of Bitshoal's interop tests: a child process, driven by a test through its standard streams, that serves or
// fetches UnixFS content by Bitswap with the implementation Kubo is made of. It exists to be spoken to, so it configures the
// libraries and adds no protocol logic of its own. It is no tool for people and not a full IPFS node: no routing, no
// relaying, nothing beyond 127.0.0.1.

/*
Usage:

	boxo-peer serve [options] [PATH...]
	boxo-peer fetch [options] --peer ADDR [--peer ADDR]... CID OUT
	boxo-peer fetch-block [options] --peer ADDR [--peer ADDR]... CID OUT

serve imports every PATH (file, directory or symlink, recursively) and serves it. fetch gets the whole UnixFS DAG of CID and
writes it as OUT, which must not exist yet. fetch-block gets one block, of any codec, and writes its bytes as OUT.

Options of all three:

	--transport tcp|quic          default tcp
	--security tls|noise          default tls; ignored with quic, which has its own
	--protocol 1.2.0|1.1.0|1.0.0  the only Bitswap version to speak; default all that boxo has
	--swarm-key FILE              join the private network of that key; tcp only
	--store DIR                   keep the blocks in a flatfs in DIR; default in memory
	--peer ADDR                   peer to dial, with its /p2p/ part; repeatable

Options of serve:

	--cid-version 0|1             default 1
	--raw-leaves=true|false       default true with CIDv1, false with CIDv0
	--chunk N                     bytes in a leaf, default 262144
	--trickle                     trickle layout instead of balanced
	--preserve                    store mode and mtime of files and directories; a file that would be a single raw
	                              leaf gets a UnixFS leaf, as a raw block has no place for them
	--part K/N                    of each file's leaves keep only those whose index i has i % N == K
	--block CODEC:FILE            also serve FILE's bytes as one block, CIDv1 with that codec and sha2-256; repeatable

Options of fetch and fetch-block:

	--timeout SECONDS             give up, default 300
	--serve                       (fetch only) stay and serve after OUT is written

Standard output has one JSON object a line, everything else goes to standard error:

	serve        {"root","path"} for every PATH, then for every --block; {"listen"}; {"ready":true}; at the end
	             {"sent_bytes","sent_blocks"}
	fetch        {"bytes","seconds","blocks","duplicates"}: bytes of file content written; seconds from the first want to
	             the last byte written; blocks received, duplicates not among them. With --serve then as serve from
	             {"listen"} on
	fetch-block  as fetch

The end of standard input, SIGTERM and SIGINT end each of them at once with status 0, also in the middle of its work: success is
told by the output line, not by the status alone.
*/
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	transport, security, protocol, swarmKey, store string
	peers                                          []string

	cidVersion        int
	rawLeaves         bool
	chunk             int64
	trickle, preserve bool
	part, parts       int
	blocks            []string

	timeout int
	stay    bool
}

func main() {
	// Import and network code do not all watch a context, and the driver is promised a prompt exit.
	const grace = 2 * time.Second

	ctx, stop := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() { stop(fmt.Errorf("stopped by signal: %v", <-signals)) }()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop(errors.New("stopped by the end of standard input"))
	}()
	go func() {
		<-ctx.Done()
		time.Sleep(grace)
		os.Exit(0)
	}()
	err := run(ctx, os.Args[1:])
	if cause := context.Cause(ctx); cause != nil {
		fmt.Fprintln(os.Stderr, "boxo-peer:", cause)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "boxo-peer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("one of serve, fetch, fetch-block is needed")
	}
	command := args[0]
	o, rest, err := parse(command, args[1:])
	if err != nil {
		return err
	}
	switch command {
	case "serve":
		if len(rest) == 0 && len(o.blocks) == 0 {
			return errors.New("serve needs a PATH or a --block")
		}
	default:
		if len(rest) != 2 || len(o.peers) == 0 {
			return fmt.Errorf("%s needs --peer, CID and OUT", command)
		}
	}

	// Its own context, as the node has to outlive the stop signal to be closed in order.
	n, err := newNode(context.Background(), o, command == "serve" || o.stay)
	if err != nil {
		return err
	}
	defer n.close()

	if command == "serve" {
		if err := importAll(ctx, n, o, rest); err != nil {
			return err
		}
	} else {
		if err := fetch(ctx, n, o, rest[0], rest[1], command == "fetch-block"); err != nil {
			return err
		}
		if !o.stay {
			return nil
		}
	}

	for _, addr := range n.listenAddrs() {
		emit(map[string]any{"listen": addr})
	}
	if command == "serve" {
		if err := n.dial(ctx, o.peers); err != nil {
			return err
		}
	}
	emit(map[string]any{"ready": true})
	<-ctx.Done()
	stat, err := n.bitswap.Stat()
	if err != nil {
		return err
	}
	emit(map[string]any{"sent_bytes": stat.DataSent, "sent_blocks": stat.BlocksSent})
	return nil
}

func parse(command string, args []string) (*options, []string, error) {
	o := &options{parts: 1}
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	fs.StringVar(&o.transport, "transport", "tcp", "tcp or quic")
	fs.StringVar(&o.security, "security", "tls", "tls or noise")
	fs.StringVar(&o.protocol, "protocol", "", "the only Bitswap version to speak")
	fs.StringVar(&o.swarmKey, "swarm-key", "", "key file of a private network")
	fs.StringVar(&o.store, "store", "", "directory for the blocks")
	fs.Func("peer", "address to dial, repeatable", func(s string) error {
		o.peers = append(o.peers, s)
		return nil
	})
	rawLeaves := ""
	switch command {
	case "serve":
		fs.IntVar(&o.cidVersion, "cid-version", 1, "0 or 1")
		fs.StringVar(&rawLeaves, "raw-leaves", "", "true or false")
		fs.Int64Var(&o.chunk, "chunk", 256<<10, "bytes in a leaf")
		fs.BoolVar(&o.trickle, "trickle", false, "trickle layout")
		fs.BoolVar(&o.preserve, "preserve", false, "store mode and mtime")
		fs.Func("part", "K/N: the leaves to keep", func(s string) (err error) {
			o.part, o.parts, err = parsePart(s)
			return err
		})
		fs.Func("block", "CODEC:FILE to serve as one block, repeatable", func(s string) error {
			o.blocks = append(o.blocks, s)
			return nil
		})
	case "fetch":
		fs.BoolVar(&o.stay, "serve", false, "stay and serve")
		fallthrough
	case "fetch-block":
		fs.IntVar(&o.timeout, "timeout", 300, "seconds")
	default:
		return nil, nil, fmt.Errorf("no such command: %s", command)
	}
	if err := fs.Parse(args); err != nil {
		return nil, nil, err
	}
	if o.cidVersion != 0 && o.cidVersion != 1 {
		return nil, nil, fmt.Errorf("no such CID version: %d", o.cidVersion)
	}
	o.rawLeaves = o.cidVersion == 1
	if rawLeaves != "" {
		var err error
		if o.rawLeaves, err = strconv.ParseBool(rawLeaves); err != nil {
			return nil, nil, fmt.Errorf("--raw-leaves: %w", err)
		}
	}
	return o, fs.Args(), nil
}

func parsePart(s string) (part, parts int, err error) {
	k, n, _ := strings.Cut(s, "/")
	part, err1 := strconv.Atoi(k)
	parts, err2 := strconv.Atoi(n)
	if err1 != nil || err2 != nil || part < 0 || part >= parts {
		return 0, 0, errors.New("want K/N with 0 <= K < N")
	}
	return part, parts, nil
}

func emit(line any) {
	// A lost stdout means a lost driver; the end of stdin tells of that, too.
	_ = json.NewEncoder(os.Stdout).Encode(line)
}
