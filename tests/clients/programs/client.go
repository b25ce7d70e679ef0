// Go's net/http.
//
//	go run client.go URL PLAN    (see tests/clients/programs/README.md; the certificate in SSL_CERT_FILE)
package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Its bytes in pieces, with pauses: sent chunked, since nobody knows how many there are.
type slow struct{ left []byte }

func (body *slow) Read(into []byte) (int, error) {
	if len(body.left) == 0 {
		return 0, io.EOF
	}
	time.Sleep(200 * time.Millisecond)
	size := copy(into, body.left[:min(6, len(body.left))])
	body.left = body.left[size:]
	return size, nil
}

func min(one, other int) int {
	if one < other {
		return one
	}
	return other
}

func ask(url, manner, path string) (int, []byte, http.Header, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, nil, nil, err
	}
	var body io.Reader = bytes.NewReader(content)
	if manner == "slow" {
		body = &slow{content}
	}
	request, err := http.NewRequest("POST", url, body)
	if err != nil {
		return 0, nil, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	switch manner {
	case "gzip":
		request.Header.Set("Content-Encoding", "gzip")
	case "retry":
		request.Header.Set("Idempotency-Key", path)
	case "expect":
		request.Header.Set("Expect", "100-continue")
	case "offer":
		request.Header.Set("Connection", "Upgrade, HTTP2-Settings")
		request.Header.Set("Upgrade", "h2c")
		request.Header.Set("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer answer.Body.Close()
	content, err = io.ReadAll(answer.Body)
	return answer.StatusCode, content, answer.Header, err
}

func main() {
	plan, err := os.ReadFile(os.Args[2])
	if err != nil {
		panic(err)
	}
	encoded := base64.StdEncoding.EncodeToString
	for _, line := range strings.Split(strings.TrimSpace(string(plan)), "\n") {
		asked := strings.Split(line, "\t")
		url := os.Args[1] + asked[2]
		if asked[1] == "offer" && strings.HasPrefix(url, "https:") {
			fmt.Printf("%s\t-\t\t\n", asked[0]) // it refuses to send that over HTTP/2
			continue
		}
		status, content, headers, err := ask(url, asked[1], asked[3])
		var first []byte
		if asked[1] == "retry" && err == nil {
			first = content
			status, content, headers, err = ask(url, asked[1], asked[3])
			for tries := 0; tries < 3 && err == nil && status == 429; tries++ {
				seconds, _ := strconv.Atoi(headers.Get("Retry-After"))
				time.Sleep(time.Duration(seconds) * time.Second)
				status, content, headers, err = ask(url, asked[1], asked[3])
			}
		}
		if err != nil {
			fmt.Printf("%s\terror\t%s\t\n", asked[0], encoded([]byte(err.Error())))
			continue
		}
		fmt.Printf("%s\t%d\t%s\t%s\n", asked[0], status, encoded(content), encoded(first))
	}
}
