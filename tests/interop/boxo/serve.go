// How serve fills the node's store: UnixFS imports by boxo's own builders, and single blocks of any codec. The sending itself
// is all Bitswap's.

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	chunker "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/boxo/ipld/unixfs/importer/trickle"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
)

type importer struct {
	ctx context.Context
	n   *node
	o   *options
	cid cid.Builder
}

func importAll(ctx context.Context, n *node, o *options, paths []string) error {
	im := &importer{ctx: ctx, n: n, o: o, cid: cid.V0Builder{}}
	if o.cidVersion == 1 {
		im.cid = cid.V1Builder{Codec: cid.DagProtobuf, MhType: multihash.SHA2_256}
	}
	for _, path := range paths {
		nd, err := im.add(path)
		if err != nil {
			return err
		}
		emitRoot(nd.Cid(), path)
	}
	for _, spec := range o.blocks {
		codec, path, _ := strings.Cut(spec, ":")
		c, err := im.addBlock(codec, path)
		if err != nil {
			return fmt.Errorf("--block %s: %w", spec, err)
		}
		emitRoot(c, path)
	}
	return nil
}

func emitRoot(c cid.Cid, path string) {
	emit(struct {
		Root string `json:"root"`
		Path string `json:"path"`
	}{c.String(), path})
}

func (im *importer) add(path string) (ipld.Node, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	switch info.Mode().Type() {
	case 0:
		return im.addFile(path, info)
	case fs.ModeDir:
		return im.addDir(path, info)
	case fs.ModeSymlink:
		return im.addSymlink(path)
	}
	return nil, fmt.Errorf("%s: neither file, directory nor symlink", path)
}

func (im *importer) addDir(path string, info fs.FileInfo) (ipld.Node, error) {
	opts := []uio.DirectoryOption{uio.WithCidBuilder(im.cid)}
	if im.o.preserve {
		opts = append(opts, uio.WithStat(info.Mode(), info.ModTime()))
	}
	dir, err := uio.NewDirectory(im.n.dag, opts...)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		child, err := im.add(filepath.Join(path, entry.Name()))
		if err != nil {
			return nil, err
		}
		if err := dir.AddChild(im.ctx, entry.Name(), child); err != nil {
			return nil, err
		}
	}
	nd, err := dir.GetNode()
	if err != nil {
		return nil, err
	}
	return nd, im.n.dag.Add(im.ctx, nd)
}

func (im *importer) addSymlink(path string) (ipld.Node, error) {
	target, err := os.Readlink(path)
	if err != nil {
		return nil, err
	}
	data, err := unixfs.SymlinkData(target)
	if err != nil {
		return nil, err
	}
	nd := merkledag.NodeWithData(data)
	if err := nd.SetCidBuilder(im.cid); err != nil {
		return nil, err
	}
	return nd, im.n.dag.Add(im.ctx, nd)
}

func (im *importer) addFile(path string, info fs.FileInfo) (ipld.Node, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// boxo's Bitswap server takes a block of no bytes for one it does not have, so an empty file could never be fetched.
	rawLeaves := im.o.rawLeaves && info.Size() > 0
	// The builder would silently drop mode and mtime from a lone raw leaf.
	if im.o.preserve && info.Size() <= im.o.chunk {
		rawLeaves = false
	}
	params := helpers.DagBuilderParams{
		Maxlinks:   helpers.DefaultLinksPerBlock,
		RawLeaves:  rawLeaves,
		CidBuilder: im.cid,
		Dagserv:    &leafFilter{DAGService: im.n.dag, ctx: im.ctx, part: im.o.part, parts: im.o.parts},
	}
	if im.o.preserve {
		params.FileMode, params.FileModTime = info.Mode(), info.ModTime()
	}
	builder, err := params.New(chunker.NewSizeSplitter(f, im.o.chunk))
	if err != nil {
		return nil, err
	}
	layout := balanced.Layout
	if im.o.trickle {
		layout = trickle.Layout
	}
	nd, err := layout(builder)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return nd, nil
}

func (im *importer) addBlock(codec, path string) (cid.Cid, error) {
	var code multicodec.Code
	if err := code.Set(codec); err != nil {
		return cid.Undef, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return cid.Undef, err
	}
	c, err := cid.V1Builder{Codec: uint64(code), MhType: multihash.SHA2_256}.Sum(data)
	if err != nil {
		return cid.Undef, err
	}
	block, err := blocks.NewBlockWithCid(data, c)
	if err != nil {
		return cid.Undef, err
	}
	return c, im.n.store.Put(im.ctx, block)
}

// leafFilter drops the leaves of one file that --part excludes. It counts on both layouts adding leaves in the order of their
// bytes, each once.
type leafFilter struct {
	ipld.DAGService
	ctx         context.Context
	part, parts int
	next        int
}

func (l *leafFilter) Add(_ context.Context, nd ipld.Node) error {
	// The builders pass a context of their own, which would not end a long import on the stop signal.
	if err := l.ctx.Err(); err != nil {
		return err
	}
	if len(nd.Links()) == 0 {
		index := l.next
		l.next++
		if index%l.parts != l.part {
			return nil
		}
	}
	return l.DAGService.Add(l.ctx, nd)
}
