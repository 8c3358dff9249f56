// What the peers of `engine.py` share: the two measurements, and the protocol with it.
//
//     node PEER.mjs '{"measure": "load", "seconds": 5, "steps": 5, "open": 256, …}'
//
// A peer begins and warms up, prints `ready`, waits for a line, measures, prints one line of JSON, and exits when its input ends.
// `load` keeps `open` chains open for some seconds, waits for the rest, and prints `{"chains", "seconds"}`. `latency` runs `chains`
// chains, one after the other, and prints the milliseconds from the accepted chain to its first step and to its end.

import { once } from 'node:events'

export const options = JSON.parse(process.argv[2])

const firstSteps = new Map()
const waiting = new Map()
let ids = 0

// A step of the chain begins.
export function stepBegins(id) {
  if (!firstSteps.has(id)) firstSteps.set(id, performance.now())
}

// The end of the chain is stored.
export function chainEnded(id) {
  waiting.get(id)?.()
}

// `start(id)` starts a chain. Its promise resolves when the chain is accepted, to a promise for its end if there is no `chainEnded`.
async function chain(start) {
  const id = ++ids
  const ends = new Promise((resolve) => waiting.set(id, resolve))
  const handle = await start(id)
  const accepted = performance.now()
  await (handle?.ended ?? ends)
  const ended = performance.now()
  waiting.delete(id)
  // A program elsewhere runs the steps: `times` are those that it knows.
  const times = handle?.times?.() ?? { start: firstSteps.get(id) - accepted, end: ended - accepted }
  firstSteps.delete(id)
  // A step may begin before the answer is here.
  return { start: Math.max(0, times.start), end: Math.max(0, times.end) }
}

async function keepOpen(start, open, goesOn) {
  let chains = 0
  const lane = async () => {
    do {
      chains++
      await chain(start)
    } while (goesOn())
  }
  const begun = performance.now()
  await Promise.all(Array.from({ length: open }, lane))
  return { chains, seconds: (performance.now() - begun) / 1000 }
}

async function latency(start, chains) {
  const times = []
  for (let n = 0; n < chains; n++) times.push(await chain(start))
  return { start: times.map((time) => time.start), end: times.map((time) => time.end) }
}

export async function measure(start) {
  let warm = options.measure === 'latency' ? 20 : 0
  await keepOpen(start, options.open, () => warm-- > 0)
  console.log('ready')
  await once(process.stdin, 'data')
  let result
  if (options.measure === 'load') {
    const until = performance.now() + options.seconds * 1000
    result = await keepOpen(start, options.open, () => performance.now() < until)
  } else {
    result = await latency(start, options.chains)
  }
  console.log(JSON.stringify(result))
  process.stdin.resume()
  if (!process.stdin.readableEnded) await once(process.stdin, 'end')
  process.exit()
}
