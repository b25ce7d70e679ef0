// Java's java.net.http.HttpClient as it comes: it offers HTTP/2 with every request over plain http.
//
//   java Client.java URL PLAN [CERTIFICATE]    (see tests/clients/programs/README.md)

import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Base64;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder();
        if (arguments.length > 2) builder.sslContext(trusting(arguments[2]));
        HttpClient client = builder.build();
        for (String line : Files.readAllLines(Path.of(arguments[1]))) {
            String[] asked = line.split("\t");
            try {
                System.out.println(asked[0] + "\t" + answer(client, arguments[0] + asked[2], asked[1], Path.of(asked[3])));
            } catch (Exception error) {
                System.out.println(asked[0] + "\terror\t" + encoded(error.toString().getBytes()) + "\t");
            }
        }
    }

    static String answer(HttpClient client, String url, String manner, Path body) throws Exception {
        HttpRequest.Builder builder = HttpRequest.newBuilder(URI.create(url)).header("Content-Type", "application/json");
        BodyPublisher publisher = BodyPublishers.ofByteArray(Files.readAllBytes(body));
        if (manner.equals("gzip")) builder.header("Content-Encoding", "gzip");
        if (manner.equals("expect")) builder.expectContinue(true);
        if (manner.equals("retry")) builder.header("Idempotency-Key", body.toString());
        if (manner.equals("slow")) publisher = BodyPublishers.ofInputStream(() -> slowly(body));
        HttpRequest request = builder.POST(publisher).build();
        HttpResponse<byte[]> answer = client.send(request, BodyHandlers.ofByteArray());
        byte[] first = {};
        if (manner.equals("retry")) {
            first = answer.body();
            answer = client.send(request, BodyHandlers.ofByteArray());
            for (int tries = 0; tries < 3 && answer.statusCode() == 429; tries++) {
                Thread.sleep(1000 * Long.parseLong(answer.headers().firstValue("Retry-After").orElseThrow()));
                answer = client.send(request, BodyHandlers.ofByteArray());
            }
        }
        return answer.statusCode() + "\t" + encoded(answer.body()) + "\t" + encoded(first);
    }

    // Its bytes in pieces, with pauses: sent chunked, since nobody knows how many there are.
    static InputStream slowly(Path body) {
        try {
            return new FileInputStream(body.toFile()) {
                @Override
                public int read(byte[] into, int start, int most) throws java.io.IOException {
                    try {
                        Thread.sleep(200);
                    } catch (InterruptedException interrupted) {
                        throw new java.io.IOException(interrupted);
                    }
                    return super.read(into, start, Math.min(most, 6));
                }
            };
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }

    static SSLContext trusting(String certificate) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (InputStream file = new FileInputStream(certificate)) {
            store.setCertificateEntry("ours", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    static String encoded(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes);
    }
}
