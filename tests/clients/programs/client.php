<?php
// PHP's curl and PHP's streams (file_get_contents, which speaks HTTP/1.1 here, and 1.0 in its first case).
//
//   php client.php curl|streams URL PLAN [CERTIFICATE]    (see tests/clients/programs/README.md)

[, $kind, $url, $plan] = $argv;
$certificate = $argv[4] ?? null;

function headers_for(string $manner, string $body): array
{
    $headers = ['Content-Type: application/json'];
    if ($manner === 'gzip') $headers[] = 'Content-Encoding: gzip';
    if ($manner === 'retry') $headers[] = "Idempotency-Key: $body";
    if ($manner === 'expect') $headers[] = 'Expect: 100-continue';
    if ($manner === 'offer') array_push($headers, 'Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c',
        'HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA');
    return $headers;
}

function by_curl(string $address, string $manner, string $body, ?string $certificate): array
{
    static $handle = null;
    $handle ??= curl_init();
    curl_reset($handle);
    $headers = headers_for($manner, $body);
    $received = [];
    curl_setopt_array($handle, [
        CURLOPT_URL => $address, CURLOPT_POST => true, CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HEADERFUNCTION => function ($_, $line) use (&$received) {
            $received[] = $line;
            return strlen($line);
        },
    ]);
    if ($certificate !== null) curl_setopt($handle, CURLOPT_CAINFO, $certificate);
    if ($manner === 'slow') {
        $file = fopen($body, 'rb');
        $headers[] = 'Transfer-Encoding: chunked';
        curl_setopt($handle, CURLOPT_READFUNCTION, function () use ($file) {
            usleep(200000);
            return (string) fread($file, 6);
        });
    } else {
        curl_setopt($handle, CURLOPT_POSTFIELDS, file_get_contents($body));
    }
    curl_setopt($handle, CURLOPT_HTTPHEADER, $headers);
    $content = curl_exec($handle);
    if ($content === false) throw new RuntimeException(curl_error($handle));
    return [curl_getinfo($handle, CURLINFO_RESPONSE_CODE), $content, $received];
}

function by_streams(string $address, string $manner, string $body, ?string $certificate): array
{
    $http = [
        'method' => 'POST', 'header' => headers_for($manner, $body), 'content' => file_get_contents($body),
        'ignore_errors' => true, 'protocol_version' => $manner === 'plain' ? 1.0 : 1.1,
    ];
    $options = ['http' => $http, 'ssl' => $certificate === null ? [] : ['cafile' => $certificate]];
    $content = file_get_contents($address, false, stream_context_create($options));
    if ($content === false) throw new RuntimeException(error_get_last()['message'] ?? 'no answer');
    return [(int) explode(' ', $http_response_header[0])[1], $content, $http_response_header];
}

function retry_after(array $lines): int
{
    foreach ($lines as $line) {
        if (preg_match('/^retry-after: *(\d+)/i', $line, $found)) return (int) $found[1];
    }
    throw new RuntimeException('no Retry-After');
}

foreach (file($plan, FILE_IGNORE_NEW_LINES) as $line) {
    [$name, $manner, $path, $body] = explode("\t", $line);
    if ($kind === 'streams' && in_array($manner, ['slow', 'expect'])) {
        echo "$name\t-\t\t\n";
        continue;
    }
    $ask = fn() => $kind === 'curl' ? by_curl($url . $path, $manner, $body, $certificate)
        : by_streams($url . $path, $manner, $body, $certificate);
    try {
        [$status, $content, $lines] = $ask();
        $first = '';
        if ($manner === 'retry') {
            $first = $content;
            [$status, $content, $lines] = $ask();
            for ($tries = 0; $tries < 3 && $status === 429; $tries++) {
                sleep(retry_after($lines));
                [$status, $content, $lines] = $ask();
            }
        }
        echo "$name\t$status\t" . base64_encode($content) . "\t" . base64_encode($first) . "\n";
    } catch (Throwable $error) {
        echo "$name\terror\t" . base64_encode($error->getMessage()) . "\t\n";
    }
}
