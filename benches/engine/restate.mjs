// Restate: a handler with durable steps in this process, called through the HTTP ingress of the server that `engine.py` started.

import http2 from 'node:http2'
import * as restate from '@restatedev/restate-sdk'
import { measure, options, stepBegins } from './bench.mjs'
import { client } from './http.mjs'

const chain = restate.service({
  name: 'bench',
  handlers: {
    chain: async (ctx, { id }) => {
      for (let step = 0; step < options.steps; step++) await ctx.run(`s${step}`, () => stepBegins(id))
    }
  }
})
const server = http2.createServer(restate.createEndpointHandler({ services: [chain], logger: () => {} }))
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const json = { 'content-type': 'application/json' }
await client(options.admin)('POST', '/deployments', json, JSON.stringify({ uri: `http://127.0.0.1:${server.address().port}` }))

const call = client(options.port)
await measure(async (id) => {
  const body = JSON.stringify({ id })
  if (options.measure === 'load') {
    await call('POST', '/bench/chain', json, body)
    return { ended: true }
  }
  const { invocationId } = JSON.parse(await call('POST', '/bench/chain/send', json, body))
  return { ended: call('GET', `/restate/invocation/${invocationId}/attach`) }
})
