// An origin in HTTP/2, HTTP/1.1 or both: GET /bytes/N is answered by N times "x", a POST by what arrived.
// Arguments: "h2" or "http/1.1", certificate, key. Prints its port.
const { readFileSync } = require('fs');
const [version, cert, key] = process.argv.slice(2);
const options = { cert: readFileSync(cert), key: readFileSync(key) };

function answer(request, response) {
  const asked = /^\/bytes\/(\d+)$/.exec(request.url);
  if (request.method === 'GET' && asked) {
    response.writeHead(200, { 'content-type': 'text/plain', trailer: 'x-sum' });
    response.write('x'.repeat(Number(asked[1])));
    response.addTrailers({ 'x-sum': asked[1] });
    return response.end();
  }
  let size = 0;
  let plain = true;
  request.on('data', (piece) => {
    size += piece.length;
    plain = plain && piece.every((byte) => byte === 0x78);
  });
  request.on('end', () => response.end(`${size} ${plain} over ${request.httpVersion}`));
}

const server = version === 'h2'
  ? require('http2').createSecureServer({ ...options, allowHTTP1: true }, answer)
  : require('https').createServer(options, answer);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
