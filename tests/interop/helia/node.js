// Helia put together for the interop tests: libp2p over TCP, identify and Bitswap, nothing else. What the libraries can do
// beyond that (routing, discovery, relaying, pings, gateways) is left out, so that a test sees only what it asked for.

import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { yamux } from '@libp2p/yamux'
import { createHeliaLight } from 'helia'

export async function createNode ({ store, security, listen, swarmKey }) {
  const helia = withBitswap(withLibp2pLight(createHeliaLight({ blockstore: store }), {
    addresses: { listen: listen ? ['/ip4/127.0.0.1/tcp/0'] : [] },
    transports: [tcp()],
    connectionEncrypters: [security === 'tls' ? tls() : noise()],
    streamMuxers: [yamux()],
    services: { identify: identify() },
    connectionMonitor: { enabled: false },
    // All peers of a test share one address, which the default would take for a flood.
    connectionManager: { inboundConnectionThreshold: 1000, maxIncomingPendingConnections: 1000 },
    ...(swarmKey == null ? {} : { connectionProtector: preSharedKey({ psk: swarmKey }) })
  }))
  await helia.start()

  // Helia counts only for a metrics system, which would slow the rest down, so the two places are tapped where they are.
  const { network, wantList } = helia.blockBrokers.find(broker => broker.name === 'bitswap').bitswap
  const sent = { bytes: 0, blocks: 0 }
  network.metrics.dataSent = { increment: by => { sent.bytes += by } }
  network.metrics.blocksSent = { increment: by => { sent.blocks += by } }
  let received = 0
  const distinct = new Set()
  wantList.addEventListener('block', ({ detail }) => {
    received++
    distinct.add(detail.cid.toString())
  })

  return {
    serving: false,
    blocks: helia.blockstore,
    dial: (address, signal) => helia.libp2p.dial(address, { signal }),
    address: () => helia.libp2p.getMultiaddrs()[0].toString(),
    sent: () => sent,
    received: () => ({ blocks: distinct.size, duplicates: received - distinct.size }),
    stop: () => helia.stop()
  }
}
