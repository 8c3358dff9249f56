// pg-boss: each job of a chain sends the next one. Its workers poll at most twice a second, so that loops of its own fetch and
// complete the jobs. The latency is that of its workers on a queue with notifications.

import { PgBoss } from 'pg-boss'
import { chainEnded, measure, options, stepBegins } from './bench.mjs'

const QUEUE = 'steps'
const batch = options.variant === 'batches' ? 100 : 1
const boss = new PgBoss({ connectionString: options.url, max: options.concurrency + 2, useListenNotify: options.measure === 'latency' })
boss.on('error', (error) => { throw error })
await boss.start()
await boss.createQueue(QUEUE, { notify: options.measure === 'latency' })

async function work(jobs) {
  const next = []
  for (const { data: { id, left } } of jobs) {
    stepBegins(id)
    if (left > 1) next.push({ data: { id, left: left - 1 } })
  }
  if (next.length === 1) await boss.send(QUEUE, next[0].data)
  if (next.length > 1) await boss.insert(QUEUE, next)
  if (next.length > 0) wake()
}

function ended(jobs) {
  for (const { data: { id, left } } of jobs) if (left === 1) chainEnded(id)
}

// Loops that found nothing wait until this process sends a job.
const idle = []
let sent = 0

function wake() {
  sent++
  idle.pop()?.()
}

async function loop() {
  for (;;) {
    const before = sent
    const jobs = await boss.fetch(QUEUE, { batchSize: batch })
    if (jobs.length === 0) {
      if (sent === before) await new Promise((resolve) => idle.push(resolve))
      continue
    }
    await work(jobs)
    await boss.complete(QUEUE, jobs.map((job) => job.id))
    ended(jobs)
  }
}

if (options.measure === 'latency') {
  // The end of a chain is that of its last job's handler: a worker does not tell when the job is complete.
  await boss.work(QUEUE, { batchSize: 1, localConcurrency: 2 }, async (jobs) => {
    await work(jobs)
    ended(jobs)
  })
} else {
  for (let n = 0; n < (batch > 1 ? 2 : options.concurrency); n++) loop()
}
await measure(async (id) => {
  await boss.send(QUEUE, { id, left: options.steps })
  wake()
})
