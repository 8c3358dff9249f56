// The caller of a running afterload: each request starts a run and waits for its end (`Prefer: wait`).

import { measure, options } from './bench.mjs'
import { client } from './http.mjs'

const call = client(options.port)
const headers = { authorization: `Bearer ${options.key}`, 'content-type': 'application/json', prefer: 'wait=60' }

await measure(async () => {
  const run = JSON.parse(await call('POST', `/v1/pipelines/steps-${options.steps}/runs`, headers, '{}'))
  if (run.status !== 'succeeded') throw new Error(`the run ended as ${run.status}`)
  const since = (time) => Date.parse(time) - Date.parse(run.created_at)
  return { ended: true, times: () => ({ start: since(run.steps[0].started_at), end: since(run.finished_at) }) }
})
