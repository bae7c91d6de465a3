// The Helia side of Bitshoal's interop tests: a child process, driven by a test through its standard streams, that serves or
// fetches UnixFS content by Bitswap with the implementation JavaScript nodes are made of. It exists to be spoken to, so it
// configures the libraries and adds no protocol logic of its own. It is no tool for people and not a full IPFS node: no
// routing, no relaying, no gateways, nothing beyond 127.0.0.1. This file has the command line and the process's life.
//
//   peer.js serve [options] [PATH...]
//   peer.js fetch [options] --peer ADDR [--peer ADDR]... CID OUT
//
// serve imports every PATH (file, directory or symlink, recursively) and serves it. fetch gets the whole UnixFS DAG of CID
// and writes it as OUT, which must not exist yet.
//
// Options of both:
//   --transport tcp               the only one there is
//   --security noise|tls          default noise
//   --protocol 1.2.0              the only one there is
//   --swarm-key FILE              join the private network of that key
//   --store DIR                   keep the blocks in DIR, a file each; default in memory
//   --peer ADDR                   peer to dial, with its /p2p/ part; repeatable
// Options of serve:
//   --cid-version 0|1             default 1
//   --raw-leaves=true|false       default true with CIDv1, false with CIDv0
//   --chunk N                     bytes in a leaf, default 262144
//   --part K/N                    of each file's leaves keep only those whose index i has i % N == K
// Options of fetch:
//   --timeout SECONDS             give up, default 300
//   --serve                       stay and serve after OUT is written
//
// Standard output has one JSON object a line, everything else goes to standard error:
//   serve   {"root","path"} for every PATH; {"listen"}; {"ready":true}; at the end {"sent_bytes","sent_blocks"}
//   fetch   {"bytes","seconds","blocks","duplicates"}: bytes of file content written; seconds from the first want to the last
//           byte written; blocks received, duplicates not among them. With --serve then as serve from {"listen"} on
//
// The end of standard input, SIGTERM and SIGINT end it with status 0, also in the middle of its work: success is told by the
// output line, not by the status alone. 1 is a failure, 2 a wrong command line.

import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { multiaddr } from '@multiformats/multiaddr'
import { MemoryBlockstore } from 'blockstore-core'
import { FsBlockstore } from 'blockstore-fs'
import { CID } from 'multiformats/cid'
import { writeOut } from './fetch.js'
import { importPath } from './import.js'
import { createNode } from './node.js'

class UsageError extends Error {}

function readArguments (args) {
  const [command, ...rest] = args
  const options = {
    transport: { type: 'string', default: 'tcp' },
    security: { type: 'string', default: 'noise' },
    protocol: { type: 'string', default: '1.2.0' },
    'swarm-key': { type: 'string' },
    store: { type: 'string' },
    peer: { type: 'string', multiple: true, default: [] }
  }
  if (command === 'serve') {
    Object.assign(options, {
      'cid-version': { type: 'string', default: '1' },
      'raw-leaves': { type: 'string' },
      chunk: { type: 'string', default: '262144' },
      part: { type: 'string', default: '0/1' }
    })
  } else if (command === 'fetch') {
    Object.assign(options, { timeout: { type: 'string', default: '300' }, serve: { type: 'boolean', default: false } })
  } else {
    throw new UsageError('first argument must be serve or fetch')
  }
  let parsed
  try {
    parsed = parseArgs({ args: rest, options, allowPositionals: true })
  } catch (err) {
    throw new UsageError(err.message)
  }
  const { values, positionals } = parsed
  const choice = (name, allowed) => {
    const value = values[name]
    if (value !== undefined && !allowed.includes(value)) {
      throw new UsageError(`--${name} ${value}: Helia has only ${allowed.join(', ')}`)
    }
    return value
  }
  const natural = (name) => {
    const value = Number(values[name])
    if (!Number.isSafeInteger(value) || value < 1) throw new UsageError(`--${name} must be a whole number from 1 on`)
    return value
  }
  const address = (text) => {
    try {
      return multiaddr(text)
    } catch (err) {
      throw new UsageError(`--peer ${text}: ${err.message}`)
    }
  }
  choice('transport', ['tcp'])
  choice('protocol', ['1.2.0'])
  const common = {
    command,
    security: choice('security', ['noise', 'tls']),
    swarmKey: values['swarm-key'],
    store: values.store,
    peers: values.peer.map(address)
  }
  if (command === 'serve') {
    const cidVersion = Number(choice('cid-version', ['0', '1']))
    const rawLeaves = choice('raw-leaves', ['true', 'false']) ?? String(cidVersion === 1)
    const [, part, parts] = /^(\d+)\/(\d+)$/.exec(values.part)?.map(Number) ?? []
    if (!(part < parts)) throw new UsageError('--part must be K/N with K < N')
    return { ...common, cidVersion, rawLeaves: rawLeaves === 'true', chunk: natural('chunk'), part, parts, paths: positionals }
  }
  if (common.peers.length === 0) throw new UsageError('fetch needs --peer')
  if (positionals.length !== 2) throw new UsageError('fetch needs CID and OUT')
  let cid
  try {
    cid = CID.parse(positionals[0])
  } catch (err) {
    throw new UsageError(`${positionals[0]}: ${err.message}`)
  }
  return { ...common, timeout: natural('timeout'), stay: values.serve, cid, out: positionals[1] }
}

function emit (object) {
  process.stdout.write(`${JSON.stringify(object)}\n`)
}

const stopping = Promise.withResolvers()
let node

async function end (status, message) {
  if (message != null) console.error(`helia-peer: ${message}`)
  if (node != null) {
    const { bytes, blocks } = node.sent()
    if (node.serving) emit({ sent_bytes: bytes, sent_blocks: blocks })
    // A clean goodbye is worth a moment, but the driver is promised a prompt exit.
    await Promise.race([node.stop().catch(() => {}), new Promise(resolve => setTimeout(resolve, 1000))])
  }
  process.exit(status)
}

async function run (options) {
  const store = options.store == null ? new MemoryBlockstore() : new FsBlockstore(options.store)
  await store.open?.()
  for (const path of options.paths ?? []) {
    emit({ root: (await importPath(path, store, options)).toString(), path })
  }
  node = await createNode({
    store,
    security: options.security,
    listen: options.command === 'serve' || options.stay,
    swarmKey: options.swarmKey == null ? undefined : await readFile(options.swarmKey)
  })
  const timeout = AbortSignal.timeout((options.timeout ?? 60) * 1000)
  await Promise.all(options.peers.map(peer => node.dial(peer, timeout)))
  if (options.command === 'fetch') {
    const start = performance.now()
    const bytes = await writeOut(options.cid, options.out, node.blocks, timeout)
    emit({ bytes, seconds: (performance.now() - start) / 1000, ...node.received() })
    if (!options.stay) return await end(0)
  }
  node.serving = true
  emit({ listen: node.address() })
  emit({ ready: true })
  await stopping.promise
}

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => { void end(0, `stopped by ${signal}`) })
}
for (const event of ['end', 'error', 'close']) {
  process.stdin.once(event, () => { void end(0) })
}
process.stdin.resume()

// Reads that Helia started ahead fail unheard when the one that is waited for has failed; that one is reported below.
process.on('unhandledRejection', err => console.error(`helia-peer: ${err.message}`))

try {
  await run(readArguments(process.argv.slice(2)))
} catch (err) {
  const causes = err.errors?.map(cause => ` (${cause.message})`).join('') ?? ''
  await end(err instanceof UsageError ? 2 : 1, `${err.message}${causes}`)
}
