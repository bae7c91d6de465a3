// What fetch and fetch-block do: get a DAG or a block through one Bitswap session and write it out. Which block to ask from
// whom, and how many at once, is left to boxo.

package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/files"
	"github.com/ipfs/boxo/ipld/merkledag"
	unixfile "github.com/ipfs/boxo/ipld/unixfs/file"
	"github.com/ipfs/go-cid"
)

func fetch(ctx context.Context, n *node, o *options, root, out string, single bool) error {
	c, err := cid.Decode(root)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.timeout)*time.Second)
	defer cancel()
	if err := n.dial(ctx, o.peers); err != nil {
		return err
	}

	start := time.Now()
	var size int64
	if single {
		size, err = fetchBlock(ctx, n, c, out)
	} else {
		size, err = fetchDAG(ctx, n, c, out)
	}
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()

	stat, err := n.bitswap.Stat()
	if err != nil {
		return err
	}
	emit(struct {
		Bytes      int64   `json:"bytes"`
		Seconds    float64 `json:"seconds"`
		Blocks     uint64  `json:"blocks"`
		Duplicates uint64  `json:"duplicates"`
	}{size, seconds, stat.BlocksReceived - stat.DupBlksReceived, stat.DupBlksReceived})
	return nil
}

func fetchBlock(ctx context.Context, n *node, c cid.Cid, out string) (int64, error) {
	block, err := blockservice.NewSession(ctx, n.blocks).GetBlock(ctx, c)
	if err != nil {
		return 0, err
	}
	return int64(len(block.RawData())), os.WriteFile(out, block.RawData(), 0o666)
}

func fetchDAG(ctx context.Context, n *node, c cid.Cid, out string) (int64, error) {
	// Read-only and made of the session: all reads below then share it instead of each opening its own.
	dag := merkledag.NewReadOnlyDagService(merkledag.NewSession(ctx, n.dag))

	// The DAG first, then the files out of the store: the file reader looks ahead within one file only, and waits a round trip
	// for each of many small ones. What Kubo does to pin.
	if err := merkledag.FetchGraph(ctx, c, dag, merkledag.Concurrent()); err != nil {
		return 0, err
	}
	nd, err := dag.Get(ctx, c)
	if err != nil {
		return 0, err
	}
	file, err := unixfile.NewUnixfsFile(ctx, dag, nd)
	if err != nil {
		return 0, err
	}
	if err := files.WriteTo(file, out); err != nil {
		return 0, err
	}
	return contentSize(out)
}

func contentSize(out string) (total int64, err error) {
	err = filepath.WalkDir(out, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
