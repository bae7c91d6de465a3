// Writing a UnixFS DAG out as files, directories and symlinks while Helia fetches it. It creates only what does not exist yet
// and only below OUT, as a DAG may come from anyone; it restores no modes or times.

import { createWriteStream } from 'node:fs'
import { mkdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import toBuffer from 'it-to-buffer'
import { exporter } from 'ipfs-unixfs-exporter'

// Together they bound what is in memory: so many files are read at once, each so many blocks ahead.
const FILES = 32
const BLOCKS_AHEAD = 32

// blocks should not be one of Helia's sessions: those drop a peer for good once it lacks a block, and with it what only it has.
export async function writeOut (cid, out, blocks, signal) {
  const store = shareReads(blocks)
  const gate = new Gate(FILES)
  let bytes = 0

  async function write (cid, path) {
    await gate.enter()
    let entries
    try {
      const entry = await exporter(cid, store, { signal })
      if (entry.type === 'directory') {
        await mkdir(path)
        entries = await Array.fromAsync(entry.entries({ signal }))
      } else if (entry.unixfs?.type === 'symlink') {
        await symlink(Buffer.from(entry.unixfs.data ?? []), path)
      } else {
        const content = entry.content({ signal, blockReadConcurrency: BLOCKS_AHEAD })
        // wx follows no symlink that an earlier entry of the same name may have left
        await pipeline(counted(content), createWriteStream(path, { flags: 'wx', highWaterMark: 1 << 22 }))
      }
    } finally {
      gate.leave()
    }
    await Promise.all((entries ?? []).map(({ cid, name }) => write(cid, join(path, checkedName(name)))))
  }

  async function * counted (content) {
    for await (const chunk of content) {
      bytes += chunk.length
      yield chunk
    }
  }

  await write(cid, out)
  return bytes
}

function checkedName (name) {
  if (name === '' || name === '.' || name === '..' || /[/\0]/.test(name)) {
    throw new Error(`refused a directory entry named ${JSON.stringify(name)}`)
  }
  return name
}

// Helia loses a want for a block that another want has just got but not stored yet, so a block that several places of the
// DAG have is asked for once at a time.
function shareReads (blocks) {
  const reads = new Map()
  return {
    async * get (cid, options) {
      const key = cid.toString()
      let read = reads.get(key)
      if (read == null) {
        read = toBuffer(blocks.get(cid, options)).finally(() => reads.delete(key))
        reads.set(key, read)
      }
      yield await read
    }
  }
}

class Gate {
  #free
  #waiting = []

  constructor (places) {
    this.#free = places
  }

  async enter () {
    if (this.#free > 0) {
      this.#free--
    } else {
      await new Promise(resolve => this.#waiting.push(resolve))
    }
  }

  leave () {
    const next = this.#waiting.shift()
    if (next == null) this.#free++
    else next()
  }
}
