// graphile-worker: each job of a chain adds the next one. `tuned` has the settings of its own benchmark, which fetches and completes
// jobs in batches. A chain counts as ended when its last job is handed over for completion: no event comes later.

import { EventEmitter } from 'node:events'
import { Logger, run } from 'graphile-worker'
import { chainEnded, measure, options, stepBegins } from './bench.mjs'

const slots = options.concurrency
const tuned = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
const events = new EventEmitter()
const runner = await run({
  connectionString: options.url,
  noHandleSignals: true,
  events,
  preset: { worker: { concurrentJobs: slots, maxPoolSize: slots + 2, ...(options.variant === 'tuned' ? tuned : {}) } },
  logger: new Logger(() => () => {}),
  taskList: {
    step: async ({ id, left }, { addJob }) => {
      stepBegins(id)
      if (left > 1) await addJob('step', { id, left: left - 1 })
    }
  }
})
events.on('job:complete', ({ job, error }) => {
  if (error) throw error
  if (job.payload.left === 1) chainEnded(job.payload.id)
})
await measure((id) => runner.addJob('step', { id, left: options.steps }))
