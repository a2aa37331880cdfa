# fastapi_app.py as an image: docker build -t words:1.0.0 -f examples/fastapi.Dockerfile examples
FROM peerjob:0.1.0

USER 0
RUN pip install fastapi uvicorn
USER 10001:10001

COPY fastapi_app.py ./
EXPOSE 8000 9090
# the health check of the image asks the application's node at this address
ENV PEERJOB_METRICS_LISTEN=127.0.0.1:9090
ENTRYPOINT ["uvicorn", "fastapi_app:app", "--host", "0.0.0.0", "--timeout-graceful-shutdown", "20"]
CMD []
