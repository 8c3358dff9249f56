// DBOS: a workflow with durable steps in this process.

import { DBOS } from '@dbos-inc/dbos-sdk'
import { measure, options, stepBegins } from './bench.mjs'

const workflow = DBOS.registerWorkflow(async (id) => {
  for (let step = 0; step < options.steps; step++) await DBOS.runStep(async () => stepBegins(id), { name: `s${step}` })
}, { name: 'chain' })

DBOS.setConfig({ name: 'bench', systemDatabaseUrl: options.url, logLevel: 'error' })
await DBOS.launch()
await measure(async (id) => {
  const handle = await DBOS.startWorkflow(workflow)(id)
  return { ended: handle.getResult() }
})
