// An origin in HTTP/2, HTTP/1.1 or both: GET /bytes/N is answered by N times "x", a POST by what arrived.
// GET /page is a page that loads and sends bodies of the sizes in its query, and shows what came of it.
// Arguments: "h2" or "http/1.1", certificate, key. Prints its port.
const { readFileSync } = require('fs');
const [version, cert, key] = process.argv.slice(2);
const options = { cert: readFileSync(cert), key: readFileSync(key) };

// With requests that the page waits for, so that it is complete when it is loaded.
const PAGE = `<!DOCTYPE html><link rel="icon" href="data:,"><pre id="out"></pre><script>
  const ask = (method, path, body) => {
    const request = new XMLHttpRequest();
    request.open(method, path, false);
    request.send(body);
    return request.responseText;
  };
  let text = '';
  for (const size of location.search.slice(1).split(',').map(Number)) {
    text += 'get ' + size + ' ' + (ask('GET', '/bytes/' + size) === 'x'.repeat(size)) + '\\n';
    text += 'post ' + ask('POST', '/', 'x'.repeat(size)) + '\\n';
  }
  const spoken = performance.getEntriesByType('navigation')[0].nextHopProtocol;
  out.textContent = text + 'in ' + spoken + '\\n';
</script>`;

function answer(request, response) {
  if (request.url.startsWith('/page')) {
    response.setHeader('content-type', 'text/html');
    return response.end(PAGE);
  }
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
  request.on('end', () => {
    const sum = request.trailers['x-sum'];
    if (sum !== undefined) response.setHeader('x-request-sum', sum);
    response.end(`${size} ${plain} over ${request.httpVersion}`);
  });
}

const server = version === 'h2'
  ? require('http2').createSecureServer({ ...options, allowHTTP1: true }, answer)
  : require('https').createServer(options, answer);
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
