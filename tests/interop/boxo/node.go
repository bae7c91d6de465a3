// What all commands share: a libp2p host with one transport, Bitswap on it, and the place where the blocks are. Whatever a
// libp2p host does on its own beyond the swarm and identify is turned off here, so that a test sees only Bitswap traffic.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/ipld/merkledag"
	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	flatfs "github.com/ipfs/go-ds-flatfs"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

type node struct {
	datastore ds.Batching
	store     blockstore.Blockstore
	host      host.Host
	bitswap   *bitswap.Bitswap
	blocks    blockservice.BlockService
	dag       ipld.DAGService
}

func newNode(ctx context.Context, o *options, listen bool) (*node, error) {
	var bsOpts []bsnet.NetOpt
	if o.protocol != "" {
		id, ok := map[string]protocol.ID{
			"1.2.0": bsnet.ProtocolBitswap,
			"1.1.0": bsnet.ProtocolBitswapOneOne,
			"1.0.0": bsnet.ProtocolBitswapOneZero,
		}[o.protocol]
		if !ok {
			return nil, fmt.Errorf("no such Bitswap version: %s", o.protocol)
		}
		bsOpts = append(bsOpts, bsnet.SupportedProtocols([]protocol.ID{id}))
	}
	hostOpts, err := hostOptions(o, listen)
	if err != nil {
		return nil, err
	}

	n := &node{}
	if o.store == "" {
		n.datastore = dssync.MutexWrap(ds.NewMapDatastore())
	} else {
		// No fsync: the blocks need not survive a power cut, and waiting for the disk would be measured as Bitswap.
		if n.datastore, err = flatfs.CreateOrOpen(o.store, flatfs.NextToLast(2), false); err != nil {
			return nil, fmt.Errorf("--store: %w", err)
		}
	}
	n.store = blockstore.NewBlockstore(n.datastore, blockstore.NoPrefix())

	if n.host, err = libp2p.New(hostOpts...); err != nil {
		n.datastore.Close()
		return nil, err
	}
	n.bitswap = bitswap.New(ctx, bsnet.NewFromIpfsHost(n.host, bsOpts...), nil, n.store)
	n.blocks = blockservice.New(n.store, n.bitswap)
	n.dag = merkledag.NewDAGService(n.blocks)
	return n, nil
}

func hostOptions(o *options, listen bool) ([]libp2p.Option, error) {
	opts := []libp2p.Option{
		libp2p.UserAgent("bitshoal-interop-boxo"),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.Ping(false),
		// A known reachability keeps AutoNAT from asking peers for it; there is no option to leave AutoNAT out.
		libp2p.ForceReachabilityPrivate(),
		// A test measures Bitswap; libp2p's limits, which follow the machine's memory, would be a second variable.
		libp2p.ResourceManager(&network.NullResourceManager{}),
	}
	addr := ""
	switch o.transport {
	case "tcp":
		addr = "/ip4/127.0.0.1/tcp/0"
		opts = append(opts, libp2p.Transport(tcp.NewTCPTransport))
	case "quic":
		if o.swarmKey != "" {
			return nil, errors.New("quic has no private networks")
		}
		addr = "/ip4/127.0.0.1/udp/0/quic-v1"
		opts = append(opts, libp2p.Transport(quic.NewTransport))
	default:
		return nil, fmt.Errorf("no such transport: %s", o.transport)
	}
	switch o.security {
	case "tls":
		opts = append(opts, libp2p.Security(libp2ptls.ID, libp2ptls.New))
	case "noise":
		opts = append(opts, libp2p.Security(noise.ID, noise.New))
	default:
		return nil, fmt.Errorf("no such security: %s", o.security)
	}
	if listen {
		opts = append(opts, libp2p.ListenAddrStrings(addr))
	} else {
		opts = append(opts, libp2p.NoListenAddrs)
	}
	if o.swarmKey != "" {
		f, err := os.Open(o.swarmKey)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		psk, err := pnet.DecodeV1PSK(f)
		if err != nil {
			return nil, fmt.Errorf("--swarm-key: %w", err)
		}
		opts = append(opts, libp2p.PrivateNetwork(psk))
	}
	return opts, nil
}

func (n *node) dial(ctx context.Context, addrs []string) error {
	for _, addr := range addrs {
		info, err := peer.AddrInfoFromString(addr)
		if err != nil {
			return fmt.Errorf("--peer %s: %w", addr, err)
		}
		if err := n.host.Connect(ctx, *info); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) listenAddrs() (addrs []string) {
	for _, addr := range n.host.Network().ListenAddresses() {
		addrs = append(addrs, fmt.Sprintf("%s/p2p/%s", addr, n.host.ID()))
	}
	return addrs
}

func (n *node) close() {
	n.bitswap.Close()
	n.host.Close()
	n.datastore.Close()
}
