// Importing files, directories and symlinks for serve, with Helia's own UnixFS builder. It keeps names and contents only, no
// modes or times, and takes names as UTF-8.

import { createReadStream } from 'node:fs'
import { lstat, readdir, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import * as dagPb from '@ipld/dag-pb'
import { unixfs } from '@helia/unixfs'
import { UnixFS } from 'ipfs-unixfs'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'

// A name for what is imported inside the builder's tree; it never shows in the DAG.
const ROOT = 'root'

export async function importPath (path, store, { cidVersion, rawLeaves, chunk, part, parts }) {
  const options = { cidVersion, rawLeaves, chunker: fixedSize({ chunkSize: chunk }) }
  if (parts > 1) options.bufferImporter = partImporter({ cidVersion, rawLeaves, part, parts })
  let root
  for await (const entry of unixfs({ blockstore: store }).addAll(candidates(path, ROOT), options)) {
    if (entry.path === ROOT) root = entry.cid
  }
  return root
}

async function * candidates (source, path) {
  const stat = await lstat(source)
  if (stat.isSymbolicLink()) {
    yield { path, link: await readlink(source) }
  } else if (stat.isFile()) {
    yield { path, content: content(source) }
  } else if (stat.isDirectory()) {
    // The builder takes a backslash before a slash for an escape and would make one name of two.
    if (path.endsWith('\\')) throw new Error(`${source}: Helia cannot import a directory whose name ends in a backslash`)
    yield { path }
    for (const name of (await readdir(source)).sort()) yield * candidates(join(source, name), `${path}/${name}`)
  } else {
    throw new Error(`${source}: neither file, directory nor symlink`)
  }
}

// A generator opens its file only when it is read: the builder takes many candidates before it reads them.
async function * content (source) {
  yield * createReadStream(source, { highWaterMark: 1 << 20 })
}

// The builder's own way to store leaves, except that the leaves of other parts are only hashed.
function partImporter ({ cidVersion, rawLeaves, part, parts }) {
  return async function * (file, store) {
    let index = 0
    for await (const bytes of file.content) {
      const kept = index++ % parts === part
      yield async () => {
        const leaf = rawLeaves ? undefined : new UnixFS({ type: 'file', data: bytes })
        const block = leaf == null ? bytes : dagPb.encode({ Data: leaf.marshal(), Links: [] })
        const [version, { code }] = leaf == null ? [1, raw] : [cidVersion, dagPb]
        const cid = CID.create(version, code, await sha256.digest(block))
        if (kept) await store.put(cid, block)
        return { cid, unixfs: leaf, size: BigInt(block.length), block }
      }
    }
  }
}
