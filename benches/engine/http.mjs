// A small HTTP client, so that the caller takes little of the CPU that is measured: kept connections, one request at a time on each.

import net from 'node:net'

const END = Buffer.from('\r\n\r\n')

class Connection {
  constructor(port) {
    this.socket = net.connect(port, '127.0.0.1').setNoDelay(true)
    this.read = Buffer.alloc(0)
    this.socket.on('data', (data) => this.take(data))
    this.socket.on('error', (error) => this.pending?.reject(error))
    this.socket.on('close', () => this.pending?.reject(new Error('the connection was closed')))
  }

  send(text) {
    return new Promise((resolve, reject) => {
      this.pending = { resolve, reject }
      this.socket.write(text)
    })
  }

  take(data) {
    this.read = this.read.length ? Buffer.concat([this.read, data]) : data
    const head = this.read.indexOf(END)
    if (head < 0) return
    const text = this.read.toString('latin1', 0, head)
    const body = this.body(text, this.read.subarray(head + END.length))
    if (body === undefined) return
    this.read = Buffer.alloc(0)
    const { resolve } = this.pending
    this.pending = undefined
    resolve({ status: Number(text.slice(9, 12)), body })
  }

  // The body once all of it is here.
  body(head, rest) {
    const length = /^content-length: *(\d+)/im.exec(head)
    if (length) return rest.length < Number(length[1]) ? undefined : rest.toString()
    if (!/^transfer-encoding: *chunked/im.test(head)) return ''
    let whole = ''
    for (;;) {
      const line = rest.indexOf('\r\n')
      const size = parseInt(rest.toString('latin1', 0, line), 16)
      if (line < 0 || rest.length < line + size + 4) return undefined
      if (size === 0) return whole
      whole += rest.toString('utf8', line + 2, line + 2 + size)
      rest = rest.subarray(line + size + 4)
    }
  }
}

export function client(port) {
  const idle = []
  return async (method, path, headers = {}, body = '') => {
    const connection = idle.pop() ?? new Connection(port)
    const lines = Object.entries({ host: `127.0.0.1:${port}`, 'content-length': Buffer.byteLength(body), ...headers })
    const head = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')
    const answer = await connection.send(`${method} ${path} HTTP/1.1\r\n${head}\r\n${body}`)
    idle.push(connection)
    if (answer.status >= 300) throw new Error(`${method} ${path} was answered ${answer.status}: ${answer.body}`)
    return answer.body
  }
}
